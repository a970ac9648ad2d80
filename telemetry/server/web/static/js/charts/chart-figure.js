/** From points to what Plotly draws: traces and layout. Pure but for colours, which it is handed. */

import { byteUnit } from "../common/format.js";

const MARKER_MAX_POINTS = 60; // up to here single points are worth seeing
const UNIFIED_MAX_SERIES = 12; // a hover box with more lines hides the chart
const MINUTE_MS = 60_000;

/**
 * @typedef {import("./series.js").Group} Group
 * @typedef {import("./points.js").PointsOf} PointsOf
 * @typedef {{range: [number, number] | null, yRange: [number, number] | null, log: boolean | null, hidden: Set<string>, allSeries: boolean, eachRank: boolean | null}} View
 * @typedef {{group: Group, points: Map<number, PointsOf>, colors: string[], view: View, x: "iteration" | "time", log: boolean,
 *   smooth: boolean, width: number, height: number, drag: string | false, theme: Record<string, string>}} Input
 */

/** Plotly knows no time zones: its dates are drawn as UTC, so times are moved to look like the reader's clock. */
export const localShift = (ms) => -new Date(ms).getTimezoneOffset() * MINUTE_MS;

/**
 * How values of this unit are shown: bytes in a binary unit that fits the largest.
 * @param {string} unit  a UCUM symbol
 * @param {number} largest
 * @returns {{label: string, factor: number}}
 */
export function displayUnit(unit, largest) {
  const bytes = /^By(\/s)?$/.exec(unit);
  if (bytes) {
    const { name, factor } = byteUnit(largest);
    return { label: name + (bytes[1] ?? ""), factor };
  }
  return { label: { 1: "", Cel: "°C" }[unit] ?? unit, factor: 1 };
}

/** Plotly reads a little HTML in names; ours are to be shown as they were written. */
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/**
 * @param {Input} input
 * @returns {{traces: object[], layout: object, unit: string}}
 */
export function figure(input) {
  const { group, points, view, x } = input;
  const shown = group.series
    .map((series, index) => ({ series, color: input.colors[index], data: points.get(series.id) }))
    .filter((one) => one.data && !view.hidden.has(one.series.label));
  const largest = Math.max(0, ...group.series.map(({ max, min }) => Math.max(Math.abs(max ?? 0), Math.abs(min ?? 0))));
  const { label, factor } = displayUnit(group.unit ?? "", largest);
  const shift = x === "time" ? localShift(Date.now()) : 0;
  const traces = shown.flatMap((one) => linesOf(one, input, factor, shift));
  const marks = nonFiniteMarks(shown, input.theme, shift);
  return {
    traces: [...traces, ...marks.traces],
    layout: layoutOf(input, label, shown.length, marks, shift),
    unit: label,
  };
}

/** @returns {any[]} one trace, or the raw and the smoothed one */
function linesOf({ series, color, data }, input, factor, shift) {
  if (data.mean) return bandOf({ series, color, data }, factor, shift);
  const xs = shift ? data.x.map((value) => value + shift) : data.x;
  const scale = (values) => (factor === 1 ? values : values.map((value) => (value === null ? null : value / factor)));
  const raw = {
    type: "scatter",
    uid: `raw-${series.id}`,
    name: plain(series.label),
    x: xs,
    y: scale(data.y),
    mode: data.exact && data.x.length <= MARKER_MAX_POINTS ? "lines+markers" : "lines",
    line: { color, width: 1.6 },
    marker: { color, size: data.x.length === 1 ? 7 : 4.5 },
    connectgaps: false,
  };
  if (!input.smooth || !data.smooth) return [raw];
  return [
    { ...raw, mode: "lines", opacity: 0.42, line: { color, width: 1 }, hoverinfo: "skip" },
    { ...raw, uid: `smooth-${series.id}`, mode: "lines", y: scale(data.smooth), line: { color, width: 2.1 } },
  ];
}

/** The mean of the ranks as a line, in a band from the lowest to the highest. */
function bandOf({ series, color, data }, factor, shift) {
  const x = shift ? data.x.map((value) => value + shift) : data.x;
  const scale = (values) => (factor === 1 ? values : values.map((value) => (value === null ? null : value / factor)));
  const [low, high] = [scale(data.low), scale(data.high)];
  const edge = { type: "scatter", mode: "lines", x, line: { width: 0, color }, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, uid: `low-${series.id}`, y: low },
    {
      ...edge,
      uid: `high-${series.id}`,
      y: high,
      fill: "tonexty",
      fillcolor: color.replace(/^rgb\((.*)\)$/, "rgba($1, 0.2)"),
    },
    {
      type: "scatter",
      uid: `mean-${series.id}`,
      name: plain(series.label),
      x,
      y: scale(data.mean),
      line: { color, width: 1.8 },
      marker: { color, size: 4.5 },
      mode: data.x.length <= MARKER_MAX_POINTS ? "lines+markers" : "lines",
      customdata: low.map((value, index) => [value, high[index]]),
      hovertemplate: `%{y:.5~g} (%{customdata[0]:.5~g} to %{customdata[1]:.5~g})<extra>${plain(series.label)}, ${series.ranks?.length ?? 1} ranks</extra>`,
    },
  ];
}

/**
 * NaN and infinities have no height: they stand at the bottom or top edge, and the first has a line of its own.
 */
function nonFiniteMarks(shown, theme, shift) {
  const all = shown.flatMap(({ series, data }) =>
    (data.non_finite ?? []).map(([at, what]) => ({ at: at + shift, what, name: series.label })),
  );
  if (!all.length) return { traces: [], shapes: [], annotations: [] };
  all.sort((a, b) => a.at - b.at);
  const first = all[0];
  const word = (what) => ({ Infinity: "∞", "-Infinity": "−∞" })[what] ?? what;
  const trace = {
    type: "scatter",
    mode: "markers",
    uid: "non-finite",
    yaxis: "y2",
    showlegend: false,
    cliponaxis: false,
    name: "",
    x: all.map(({ at }) => at),
    y: all.map(({ what }) => (what === "Infinity" ? 1 : 0)),
    text: all.map(({ what, name }) => `${plain(name)}: ${word(what)}`),
    hoverinfo: "text+x",
    marker: {
      color: theme.bad,
      size: 8,
      line: { width: 1, color: theme.surface },
      symbol: all.map(({ what }) => ({ NaN: "x", Infinity: "triangle-up" })[what] ?? "triangle-down"),
    },
  };
  return {
    traces: [trace],
    shapes: [
      {
        type: "line",
        x0: first.at,
        x1: first.at,
        y0: 0,
        y1: 1,
        yref: "paper",
        layer: "below",
        line: { color: theme.bad, width: 1.2, dash: "dot" },
      },
    ],
    annotations: [
      {
        x: first.at,
        y: 0.94,
        yref: "paper",
        yanchor: "top",
        xanchor: "left",
        xshift: 4,
        showarrow: false,
        text: `first ${word(first.what)}`,
        font: { size: 11, color: theme.bad },
        bgcolor: theme.surface,
        borderpad: 1,
      },
    ],
  };
}

function layoutOf(input, unit, seriesShown, marks, shift) {
  const { view, x, theme, width, height } = input;
  const axis = {
    gridcolor: theme.line,
    zeroline: false,
    linecolor: theme.line,
    tickcolor: theme.line,
    ticks: "outside",
    ticklen: 4,
    tickfont: { color: theme.text2, size: 11 },
    automargin: false,
    exponentformat: "e",
  };
  const xRange = view.range
    ? { range: view.range.map((value) => value + shift), autorange: false }
    : { autorange: true };
  const yRange = view.yRange ? { range: view.yRange, autorange: false } : { autorange: true };
  return {
    width,
    height,
    autosize: false,
    showlegend: false,
    dragmode: input.drag,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: unit ? 62 : 52, r: 14, t: 10, b: x === "time" ? 46 : 34 },
    font: { family: theme.sans, size: 12, color: theme.text },
    hovermode: seriesShown > UNIFIED_MAX_SERIES ? "closest" : "x unified",
    hoverdistance: 40,
    hoverlabel: {
      bgcolor: theme.surface,
      bordercolor: theme.lineStrong,
      namelength: 48,
      font: { family: theme.sans, size: 12, color: theme.text },
    },
    xaxis: {
      ...axis,
      ...xRange,
      type: x === "time" ? "date" : "linear",
      showgrid: false,
      nticks: Math.max(3, Math.floor(width / 90)),
      ...(x === "iteration"
        ? { exponentformat: "none", separatethousands: true, hoverformat: ",d" }
        : { hoverformat: "%b %-d, %H:%M:%S" }),
      showspikes: true,
      spikemode: "across",
      spikesnap: "hovered data",
      spikethickness: 1,
      spikedash: "solid",
      spikecolor: theme.lineStrong,
    },
    yaxis: {
      ...axis,
      ...yRange,
      type: input.log ? "log" : "linear",
      nticks: 6,
      hoverformat: ".5~g",
      fixedrange: false,
      rangemode: unit === "%" ? "tozero" : "normal",
      ...(unit ? { title: { text: plain(unit), standoff: 6, font: { size: 11, color: theme.text2 } } } : {}),
      ...(input.log ? { dtick: undefined, minor: { showgrid: false } } : {}),
    },
    ...(marks.traces.length
      ? { yaxis2: { overlaying: "y", range: [-0.02, 1.02], visible: false, fixedrange: true } }
      : {}),
    shapes: marks.shapes,
    annotations: marks.annotations,
  };
}
