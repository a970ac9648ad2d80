"""What collectors need that report plots and images as a program would by hand: the task's logger, seen from below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from telemetry.protocols import Collector

if TYPE_CHECKING:
    from telemetry.collectors.drawing import Drawn

__all__ = ["Reporter", "ReportingCollector", "WriteSection"]

# (section, {key: value}): changes of the task's record.
WriteSection: TypeAlias = Callable[[str, Mapping[str, Any]], object]


class Reporter(Protocol):
    """The part of Logger that collectors use."""

    @property
    def latest_iteration(self) -> int: ...

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None: ...

    def report_drawn(self, title: str, series: str, drawn: Drawn, iteration: int) -> None: ...

    def report_histogram(
        self, title: str, series: str, values: Any, iteration: int | None = None, *, xlabels: list[str], yaxis: str
    ) -> None: ...

    def report_image(self, title: str, series: str, iteration: int | None = None, *, image: Any) -> None: ...

    def report_media(
        self, title: str, series: str, iteration: int | None = None, *, stream: Any, file_extension: str
    ) -> None: ...


class ReportingCollector(Collector, Protocol):
    """A collector that is told, before it starts, what to report with."""

    def report_to(self, reports: Reporter, write: WriteSection) -> None:
        """Report through these from now on."""
