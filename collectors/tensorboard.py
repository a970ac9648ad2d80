"""What the program tells a SummaryWriter of TensorBoard (torch.utils.tensorboard) or tensorboardX, reported as well.

The writer writes its files as ever; each call is reported after it has returned. The step that was given is the
iteration; without one it is the one after the tag's last, from 0. A tag `train/loss` is title train and series loss,
a tag without a slash is both;
`add_scalars("group", {"a": ...})` is group/a.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from telemetry.collectors.drawing import draw
from telemetry.collectors.hooks import Hooks
from telemetry.collectors.post_import import PostImport
from telemetry.collectors.reporting import Reporter, WriteSection

from telemetry.errors import EventsDropped
from telemetry.events import clean_name, to_float, to_iteration
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.protocols import Emit
from telemetry.record import Section
from telemetry.values import entry

__all__ = ["HPARAMS", "MODULES", "SummaryCollector"]

_log = logging.getLogger(__name__)

# Where a SummaryWriter is defined.
MODULES = ("torch.utils.tensorboard.writer", "tensorboardX.writer")
# The section of the parameters that add_hparams sets.
HPARAMS = "hparams"

# Tags whose steps are counted; a program that makes up tags for ever must not fill memory with them.
_MAX_TAGS = 10_000

# Bars of a histogram that is made here.
_BINS = 64


class SummaryCollector:
    """Reports the scalars, histograms, images, figures, texts and hyper-parameters that a SummaryWriter is given.

    Args:
        hparams: report those of add_hparams, as parameters of the section "hparams".
    """

    name = "tensorboard"

    def __init__(self, *, hparams: bool = True) -> None:
        self._with_hparams = hparams
        self._reports: Reporter | None = None
        self._write: WriteSection | None = None
        self._emit: Emit | None = None
        self._hooks = Hooks()
        self._post_import: PostImport | None = None
        # A writer's method may call another of its methods: the outermost call counts.
        self._inside = threading.local()
        # By kind and tag: the step of the next call that gives none.
        self._next_steps: dict[tuple[str, str], int] = {}
        self._calls: dict[str, Callable[..., None]] = {
            "add_scalar": self._scalar,
            "add_scalars": self._scalars,
            "add_histogram": self._histogram,
            "add_image": self._image,
            "add_images": self._images,
            "add_figure": self._figure,
            "add_text": self._text,
            "add_hparams": self._hparams,
        }

    def report_to(self, reports: Reporter, write: WriteSection) -> None:
        """Report through this logger and record."""
        self._reports, self._write = reports, write

    def start(self, emit: Emit) -> None:
        """Watch the writers that are imported, and those that will be."""
        self._emit = emit
        self._post_import = PostImport(dict.fromkeys(MODULES, self._watch))
        self._post_import.install()

    def stop(self) -> None:
        """Put the writers' methods back."""
        self._emit = None
        if self._post_import is not None:
            self._post_import.remove()
        self._hooks.restore()

    def reset_after_fork(self) -> None:
        """In a forked child: forget which calls the parent's thread was in."""
        self._inside = threading.local()

    def _watch(self, module: ModuleType) -> None:
        for method, report in self._calls.items():
            self._hooks.wrap(module.SummaryWriter, method, partial(self._call, report, method))

    def _call(
        self, report: Callable[..., None], method: str, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._emit is None or getattr(self._inside, "busy", False):
            return original(*args, **kwargs)
        self._inside.busy = True
        try:
            result = original(*args, **kwargs)
            self._note(report, method, args[1:], kwargs)
        finally:
            self._inside.busy = False
        return result

    def _note(self, report: Callable[..., None], method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        emit, reports = self._emit, self._reports
        if emit is None or reports is None:
            return
        try:
            report(reports, *args, **kwargs)
        except EventsDropped:
            pass  # strict mode; counted already, and it is for report calls to raise
        except Exception as error:  # the program's own logging must not fail for our sake
            if is_interrupt(error):
                raise
            _log.debug("%s was not reported", method, exc_info=True)
            try:
                emit.refuse(DropReason.INVALID, f"{method} of a SummaryWriter was not reported: {error!r:.200}")
            except EventsDropped:
                pass  # strict mode; counted already

    # ---- the calls, with the arguments that both writers share ------------------------------------

    def _scalar(
        self, reports: Reporter, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any
    ) -> None:
        reports.report_scalar(*_names(tag), to_float(scalar_value), self._step("scalar", tag, global_step))

    def _scalars(
        self,
        reports: Reporter,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        step = self._step("scalars", main_tag, global_step)
        for series, value in tag_scalar_dict.items():
            reports.report_scalar(str(main_tag), str(series), to_float(value), step)

    def _histogram(self, reports: Reporter, tag: str, values: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
        heights, labels = _counted(values)
        title, series = _names(tag)
        reports.report_histogram(
            title, series, heights, self._step("histogram", tag, global_step), xlabels=labels, yaxis="count"
        )

    def _image(
        self, reports: Reporter, tag: str, img_tensor: Any, global_step: Any = None, walltime: Any = None,
        dataformats: str = "CHW", **__: Any,
    ) -> None:  # fmt: skip
        title, series = _names(tag)
        reports.report_image(
            title, series, self._step("image", tag, global_step), image=_pixels(img_tensor, dataformats)
        )

    def _images(
        self, reports: Reporter, tag: str, img_tensor: Any, global_step: Any = None, walltime: Any = None,
        dataformats: str = "NCHW", **__: Any,
    ) -> None:  # fmt: skip
        title, series = _names(tag)
        step = self._step("image", tag, global_step)
        for number, image in enumerate(img_tensor):
            pixels = _pixels(image, dataformats.replace("N", ""))
            reports.report_image(title, f"{series} {number}", step, image=pixels)

    def _figure(self, reports: Reporter, tag: str, figure: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
        title, series = _names(tag)
        step = self._step("figure", tag, global_step)
        for number, item in enumerate(figure if isinstance(figure, (list, tuple)) else [figure]):
            reports.report_drawn(title, f"{series} {number}" if number else series, draw(item), step)

    def _text(self, reports: Reporter, tag: str, text_string: str, global_step: Any = None, *_: Any, **__: Any) -> None:
        title, series = _names(tag)
        data = str(text_string).encode("utf-8", "backslashreplace")
        reports.report_media(title, series, self._step("text", tag, global_step), stream=data, file_extension=".txt")

    def _hparams(
        self, reports: Reporter, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any] | None = None,
        *_: Any, global_step: Any = None, **__: Any,
    ) -> None:  # fmt: skip
        if not self._with_hparams:
            return
        if self._write is not None:
            self._write(
                Section.PARAMETERS,
                {clean_name(f"{HPARAMS}/{name}"): entry(value) for name, value in hparam_dict.items()},
            )
        for tag, value in (metric_dict or {}).items():
            reports.report_scalar(*_names(tag), to_float(value), self._step("scalar", tag, global_step))

    def _step(self, kind: str, tag: Any, global_step: Any) -> int:
        """Return the step of a call, and count on from it."""
        key = kind, str(tag)
        step = self._next_steps.get(key, 0) if global_step is None else to_iteration(global_step)
        if key in self._next_steps or len(self._next_steps) < _MAX_TAGS:
            self._next_steps[key] = step + 1
        return step


def _names(tag: Any) -> tuple[str, str]:
    title, slash, series = str(tag).partition("/")
    return (title, series) if slash and title and series else (str(tag), str(tag))


def _counted(values: Any) -> tuple[list[int], list[str]]:
    """Return the heights of a histogram's bars, and the middle of each bar."""
    import numpy as np  # both writers need it themselves

    detach = getattr(values, "detach", None)
    array = np.asarray(values if detach is None else detach().cpu().numpy(), np.float64).ravel()
    array = array[np.isfinite(array)]
    heights, edges = np.histogram(array, _BINS)
    return heights.tolist(), [f"{middle:.6g}" for middle in ((edges[1:] + edges[:-1]) / 2).tolist()]


def _pixels(image: Any, dataformats: str) -> Any:
    """Return an image as height, width, channels."""
    import numpy as np

    detach = getattr(image, "detach", None)
    array = np.asarray(image if detach is None else detach().cpu().numpy())
    order = dataformats.upper()
    if array.ndim != len(order) or not set(order) <= set("CHW"):
        raise ValueError(f"an image of {array.ndim} dimensions does not have the format {dataformats!r}")
    return array.transpose([order.index(axis) for axis in "HWC" if axis in order])
