"""Task, the part "Scalars": reading back what was reported, online and offline, while the task runs and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telemetry.errors import ConfigurationError
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.reading.series import MAX_SAMPLES, X_AXES, by_title, named

if TYPE_CHECKING:
    from telemetry.sdk.reading.report_views import Reports

__all__ = ["TaskReports"]


class TaskReports(TaskBase):
    """Reads of scalars, single values, console lines and plots; see Task.

    Of this process's own task, what was reported before the call is brought to where it is read first. Nothing is
    cached: each call reads anew. Where several ranks report one series, the lowest has its name and the others are
    "series [rank N]".
    """

    def get_last_scalar_metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return {title: {series: {"last", "min", "max"}}} of all scalars, ordered by title and series.

        `last` is the value at the highest iteration, of several there the latest; `min` and `max` are over the
        finite values, and NaN where there are none. NaN and infinities are floats.
        """
        found = {(title, series, rank): summary for title, series, rank, summary in self._reports().summary()}
        answer: dict[str, dict[str, dict[str, float]]] = {}
        for key, name in sorted(named(found).items(), key=lambda item: (item[0][0], item[1])):
            answer.setdefault(key[0], {})[name] = found[key]
        return answer

    def get_reported_scalars(self, max_samples: int = 0, x_axis: str = "iter") -> dict[str, dict[str, dict[str, Any]]]:
        """Return {title: {series: {"name", "x", "y"}}}: a sample of each series, in which no spike is missing.

        A series of more points is cut into stretches, of which each gives its lowest and its highest point; nothing
        is averaged.

        Args:
            max_samples: points of each series at most; 0, the default, is 5,000, which is also the most.
            x_axis: "iter" (iterations), "timestamp" (Unix milliseconds) or "iso_time" (text, UTC).
        Raises:
            ValueError: another axis, or a negative number of samples.
        """
        _check_axis(x_axis)
        if max_samples < 0:
            raise ConfigurationError(f"max_samples is {max_samples}; it must be 0 or more")
        return by_title(self._reports().curves(x_axis, min(max_samples or MAX_SAMPLES, MAX_SAMPLES)))

    def get_all_reported_scalars(self, x_axis: str = "iter") -> dict[str, dict[str, dict[str, Any]]]:
        """Return {title: {series: {"name", "x", "y"}}} with every point that was reported.

        By iteration and then time, or by time; an iteration that was reported twice is there twice.

        Args:
            x_axis: as in get_reported_scalars.
        Raises:
            ValueError: another axis.
        """
        _check_axis(x_axis)
        return by_title(self._reports().curves(x_axis, None))

    def get_reported_single_value(self, name: str) -> float | None:
        """Return the single value that was reported last under a name; None if there is none."""
        return self.get_reported_single_values().get(name)

    def get_reported_single_values(self) -> dict[str, float]:
        """Return {name: value} of all single values."""
        return self._reports().single_values()

    def get_reported_console_output(self, number_of_reports: int = 1) -> list[str]:
        """Return the last lines of the task's console, the oldest first.

        Args:
            number_of_reports: how many lines.
        """
        return self._reports().console(max(0, number_of_reports))

    def get_reported_plots(self, max_iterations: int | None = None) -> list[dict[str, Any]]:
        """Return the task's plots by title, series and iteration, as dicts.

        Each has "metric" (the title), "variant" (the series), "iter", "timestamp" (Unix milliseconds), "task", and
        "plot_str": plotly's JSON, "" while its bytes have not arrived.

        Args:
            max_iterations: of each title and series only so many, those of the highest iterations; None for all.
        """
        return [
            {
                "task": self.id,
                "metric": plot.title,
                "variant": plot.series,
                "iter": plot.iteration,
                "timestamp": plot.unix_ms,
                "plot_str": plot.figure,
            }
            for plot in self._reports().plots(max_iterations)
        ]

    def get_debug_samples(self, title: str, series: str, n_last_iterations: int | None = None) -> list[dict[str, Any]]:
        """Return the images and other media of a title and series, the newest iteration first.

        Each has "metric", "variant", "iter", "timestamp" (Unix milliseconds), "url", "filename", "content_type",
        "size_bytes" and "state": "stored", or "pending" while its bytes have not arrived.

        Args:
            n_last_iterations: only so many; None for all.
        """
        found = [
            {
                "metric": media.title,
                "variant": media.series,
                "iter": media.iteration,
                "timestamp": media.unix_ms,
                "url": media.uri,
                "filename": media.filename,
                "content_type": media.content_type,
                "size_bytes": media.size_bytes,
                "state": media.state,
            }
            for media in self._reports().media(n_last_iterations)
            if (media.title, media.series) == (title, series)
        ]
        return found[::-1]

    def get_last_iteration(self) -> int:
        """Return the highest iteration of any scalar; 0 where none was reported."""
        return self._reports().last_iteration()

    def _reports(self) -> Reports:
        return self._view.reports()


def _check_axis(x_axis: str) -> None:
    if x_axis not in X_AXES:
        raise ConfigurationError(f"x_axis is {x_axis!r}; it must be one of {', '.join(map(repr, X_AXES))}")
