"""Logger, the part that reports plots: each call makes one plotly figure and emits it as one event."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.errors import InvalidEvent
from telemetry.events import MAX_FIGURE_BYTES, Plot
from telemetry.ledger import DropReason
from telemetry.record import BlobState
from telemetry.sdk.reports.logger_media import MediaReports, ReportPlace, place_of, reported

if TYPE_CHECKING:
    from telemetry.collectors.drawing import Drawn
    from telemetry.sdk.reports.plots import Figure

__all__ = ["PlotReports"]

# Of a plot of several series, which has no name of its own.
PLOT_SERIES = "plot"


class PlotReports(MediaReports):
    """Reports of plots; see Logger.

    Every call copies its data, at about a microsecond a number; of the same title, series and iteration the
    latest plot counts. `iteration` is 0 where it is not given. `extra_layout` goes over plotly's layout.
    """

    def report_vector(
        self,
        title: str,
        series: str,
        values: Any,
        iteration: int | None = None,
        labels: list[str] | None = None,
        xlabels: list[str] | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        mode: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report a vector as bars: the same as report_histogram."""
        self.report_histogram(
            title, series, values, iteration, labels, xlabels, xaxis, yaxis, mode, extra_layout=extra_layout
        )

    def report_histogram(
        self,
        title: str,
        series: str,
        values: Any,
        iteration: int | None = None,
        labels: list[str] | None = None,
        xlabels: list[str] | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        mode: str | None = None,
        data_args: dict[str, Any] | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report heights of bars, one vector or a matrix with a row for each group. Nothing is counted: bins are yours.

        Args:
            labels: a name for each row. xlabels: a name for each bar.
            mode: "group" (default), "stack", "relative" or "overlay".
            data_args: further fields of plotly's bar trace.
        """

        def build(plots: Any) -> Figure:
            parts = {"xaxis": xaxis, "yaxis": yaxis, "mode": mode, "data_args": data_args, "extra_layout": extra_layout}
            figure: Figure = plots.bars(title, series, values, labels=labels, xlabels=xlabels, **parts)
            return figure

        self._report("report_histogram", title, series, iteration, build)

    def report_table(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        table_plot: Any = None,
        csv: str | os.PathLike[str] | None = None,
        url: str | None = None,
        extra_data: dict[str, Any] | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report a table: exactly one of `table_plot`, `csv` and `url`.

        Args:
            table_plot: a pandas DataFrame, a dict of columns, or a list of rows of which the first is the place.
            csv: the path of a CSV file with a place, which is read during the call.
            url: of a CSV file elsewhere: the table then holds the link, and nothing is fetched.
            extra_data: further fields of plotly's table trace.
        """

        def build(plots: Any) -> Figure:
            given = [item for item in (table_plot, csv, url) if item is not None]
            if len(given) != 1:
                raise InvalidEvent(f"exactly one of table_plot, csv and url must be given, not {len(given)}")
            rows = table_plot
            if csv is not None:
                rows = plots.read_csv(Path(csv))
            elif url is not None:
                rows = [["url"], [str(url)]]
            figure: Figure = plots.table(title, rows, extra_data=extra_data, extra_layout=extra_layout)
            return figure

        self._report("report_table", title, series, iteration, build)

    def report_line_plot(
        self,
        title: str,
        series: Any,
        xaxis: str,
        yaxis: str,
        mode: str = "lines",
        iteration: int | None = None,
        reverse_xaxis: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report lines in one plot, kept under the series "plot".

        Args:
            series: a list of SeriesInfo(name, data, labels) (telemetry.sdk.reports.plots), of objects or dicts with
                these fields, or of (name, data); data are points [n, 2].
            mode: "lines", "markers" or "lines+markers".
            comment: a text below the plot.
        """

        def build(plots: Any) -> Figure:
            parts = {"mode": mode, "reverse_xaxis": reverse_xaxis, "comment": comment, "extra_layout": extra_layout}
            figure: Figure = plots.lines(title, series, xaxis=xaxis, yaxis=yaxis, **parts)
            return figure

        self._report("report_line_plot", title, PLOT_SERIES, iteration, build)

    def report_scatter2d(
        self,
        title: str,
        series: str,
        scatter: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        labels: list[str] | None = None,
        mode: str = "line",
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report points [n, 2], or a vector over 0, 1, 2, …

        Args:
            labels: a text for each point.
            mode: "line" (or "lines"), "markers" or "lines+markers".
        """

        def build(plots: Any) -> Figure:
            parts = {"labels": labels, "mode": mode, "comment": comment, "extra_layout": extra_layout}
            figure: Figure = plots.scatter2d(title, series, scatter, xaxis=xaxis, yaxis=yaxis, **parts)
            return figure

        self._report("report_scatter2d", title, series, iteration, build)

    def report_scatter3d(
        self,
        title: str,
        series: str,
        scatter: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        zaxis: str | None = None,
        labels: list[str] | list[list[str]] | None = None,
        mode: str = "markers",
        fill: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report points [n, 3], or a list of several such sets."""

        def build(plots: Any) -> Figure:
            axes = {"xaxis": xaxis, "yaxis": yaxis, "zaxis": zaxis}
            parts = {"labels": labels, "mode": mode, "fill": fill, "comment": comment, "extra_layout": extra_layout}
            figure: Figure = plots.scatter3d(title, series, scatter, **axes, **parts)
            return figure

        self._report("report_scatter3d", title, series, iteration, build)

    def report_confusion_matrix(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        yaxis_reversed: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report a matrix [rows, columns] as a map of colours with the value in each cell; row 0 is at the bottom.

        Args:
            yaxis_reversed: row 0 is at the top.
        """

        def build(plots: Any) -> Figure:
            axes = {"xaxis": xaxis, "yaxis": yaxis, "xlabels": xlabels, "ylabels": ylabels}
            parts = {"yaxis_reversed": yaxis_reversed, "comment": comment, "extra_layout": extra_layout}
            figure: Figure = plots.heatmap(title, matrix, with_values=True, **axes, **parts)
            return figure

        self._report("report_confusion_matrix", title, series, iteration, build)

    def report_matrix(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        yaxis_reversed: bool = False,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report a matrix: the same as report_confusion_matrix."""
        self.report_confusion_matrix(
            title, series, matrix, iteration, xaxis, yaxis, xlabels, ylabels, yaxis_reversed, extra_layout=extra_layout
        )

    def report_surface(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        zaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        camera: Any = None,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Report a matrix of heights as a surface in space. `camera`: (x, y, z), from where it is looked at."""

        def build(plots: Any) -> Figure:
            axes = {"xaxis": xaxis, "yaxis": yaxis, "zaxis": zaxis, "xlabels": xlabels, "ylabels": ylabels}
            parts = {"camera": camera, "comment": comment, "extra_layout": extra_layout}
            figure: Figure = plots.surface(title, series, matrix, **axes, **parts)
            return figure

        self._report("report_surface", title, series, iteration, build)

    def report_plotly(self, title: str, series: str, figure: Any, iteration: int | None = None) -> None:
        """Report a plotly Figure, or a dict of its form: {"data": [...], "layout": {...}}."""
        self._report("report_plotly", title, series, iteration, lambda plots: figure)

    def report_matplotlib_figure(
        self,
        title: str,
        series: str,
        figure: Any,
        iteration: int | None = None,
        report_image: bool = False,
        report_interactive: bool = True,
    ) -> None:
        """Report a matplotlib figure, or pyplot's current one, as a PNG image.

        It is drawn during the call, on the caller's thread, because matplotlib is not safe to draw from another: 50 to
        300 ms for most figures.

        Args:
            figure: a matplotlib Figure, or `matplotlib.pyplot`.
            report_image: report it as an image (debug sample) and not as a plot.
            report_interactive: accepted; a figure is always kept as it looks.
        """
        with reported(self._emit, "report_matplotlib_figure", title, series):
            from telemetry.collectors.drawing import draw

            place = place_of(title, series, iteration)
            drawn = draw(figure)
            if report_image:
                self._upload(place, drawn.png, f"{place.iteration}.png", "image/png")
            else:
                self._emit_drawn(place, drawn)

    def report_drawn(self, title: str, series: str, drawn: Drawn, iteration: int) -> None:
        """Report a figure that was drawn already: what the matplotlib collector sends."""
        with reported(self._emit, "report_matplotlib_figure", title, series):
            self._emit_drawn(place_of(title, series, iteration), drawn)

    @property
    def latest_iteration(self) -> int:
        """The iteration of the scalar that was reported last; 0 before the first."""
        return self._emit.latest_iteration

    # ---- inside ----------------------------------------------------------------------------------

    def _report(self, what: str, title: Any, series: Any, iteration: Any, build: Callable[[Any], Any]) -> None:
        """Emit the figure that `build` makes of the module of plots; whatever is wrong is counted."""
        with reported(self._emit, what, title, series):
            from telemetry.sdk.reports import plots  # not needed by a program that reports scalars alone

            self._emit_figure(place_of(title, series, iteration), build(plots))

    def _emit_figure(self, place: ReportPlace, figure: Any) -> None:
        from telemetry.sdk.reports.figures import figure_text

        text = figure_text(figure)
        if len(text) <= MAX_FIGURE_BYTES // 4 or len(text.encode()) <= MAX_FIGURE_BYTES:
            self._emit_plot(place, text, "")
            return
        uploads = self._uploads
        if uploads is None:
            raise InvalidEvent(f"a figure of {len(text):,} characters is too large to be sent to another's task")
        from telemetry.sdk.bytes.deposit import Deposit
        from telemetry.sdk.bytes.parcel import Parcel

        label = f"plot {place.title!r:.60}/{place.series!r:.60}"

        def tell(fields: Mapping[str, Any]) -> None:
            if fields["state"] == BlobState.FAILED:
                self._emit.refuse(DropReason.INVALID, f"the {label}: {fields['error']:.300}")
            else:
                self._emit_plot(place, "", fields["sha256"])

        uploads.submit(
            Deposit(
                parcel=Parcel(filename="figure.json", source=text.encode()),
                section="plots",
                key=f"{place.title}/{place.series}/{place.iteration}",
                label=label,
                tell=tell,
                # Beside the events, wherever media go: a page must be able to read it.
                target=True,
            )
        )

    def _emit_drawn(self, place: ReportPlace, drawn: Drawn) -> None:
        from telemetry.sdk.reports.plots import picture

        source = f"data:image/png;base64,{base64.b64encode(drawn.png).decode()}"
        self._emit_figure(place, picture(place.title, source, drawn.width, drawn.height))

    def _emit_plot(self, place: ReportPlace, figure: str, blob: str) -> None:
        self._emit(Plot(place.time_unix_ns, place.title, place.series, place.iteration, figure, blob))
