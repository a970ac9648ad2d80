/** Reported figures in the colours of the page. */

const AXIS = /^[xy]axis\d*$/;
const CLEAR = "rgba(0,0,0,0)";

// Plotly's own ink: what an author saw who chose a ground and no ink.
const INK = "#444";

/**
 * Kinds of subplots, which have grounds and axes of their own: their names in a layout, and how they are drawn.
 * @type {[RegExp, string, (layout: any, theme: Record<string, string>) => object][]}
 */
const SUBPLOTS = [
  [/^scene\d*$/, "scene", sceneOf],
  [/^polar\d*$/, "polar", subplotOf(["radialaxis", "angularaxis"])],
  [/^ternary\d*$/, "ternary", subplotOf(["aaxis", "baxis", "caxis"])],
  [/^smith\d*$/, "smith", subplotOf(["realaxis", "imaginaryaxis"])],
];

/**
 * The layout with which a figure is drawn. One that has a background of its own is drawn as it is; any other gets the
 * page's colours, where its author has not chosen one.
 * @param {any} layout  the figure's own
 * @param {Record<string, string>} theme
 * @param {{width: number, height: number, names: string[]}} place  `names`: what stands above the figure already
 */
export function layoutOf(layout, theme, { width, height, names }) {
  const { title, ...rest } = layout ?? {};
  const text = typeof title === "string" ? title : title?.text;
  const own = { ...rest, ...(text && !names.includes(text) ? { title } : {}), width, height, autosize: false };
  const margin = { l: 56, r: 18, t: own.title ? 44 : 14, b: 44, ...layout?.margin };
  if (hasGround(rest)) return { ...own, margin };
  return {
    ...own,
    ...axesOf(rest, theme),
    ...subplotsOf(rest, theme),
    ...partsOf(rest, theme),
    margin,
    paper_bgcolor: CLEAR,
    plot_bgcolor: rest.plot_bgcolor ?? CLEAR,
    font: { family: theme.sans, size: 12, color: theme.text, ...rest.font },
    colorway: rest.colorway ?? Array.from({ length: 10 }, (_, index) => theme[`series${index}`]),
  };
}

/**
 * The traces with which a figure is drawn: of a table header and cells have the page's colours, and gauges and bars of
 * finance their lines. What the author has chosen stays, with what Plotly adds to it by itself.
 * @param {any[]} traces
 * @param {any} layout
 * @param {Record<string, string>} theme
 */
export function tracesOf(traces, layout, theme) {
  if (hasGround(layout ?? {})) return traces;
  return traces.map((trace) => {
    if (trace?.type === "table")
      return {
        ...trace,
        header: partOf(trace.header, theme.surface2, theme),
        cells: partOf(trace.cells, theme.surface, theme),
      };
    if (trace?.type === "indicator" && trace.gauge)
      return {
        ...trace,
        gauge: { bordercolor: theme.lineStrong, ...trace.gauge, axis: { tickcolor: theme.text2, ...trace.gauge.axis } },
      };
    return trace;
  });
}

const hasGround = (layout) => Boolean(layout.paper_bgcolor) && layout.paper_bgcolor !== CLEAR;

/** Header or cells of a table. */
function partOf(part, ground, theme) {
  const line = { color: theme.lineStrong, ...part?.line };
  if (part?.fill?.color) return { ...part, line, font: { color: INK, ...part.font } };
  if (part?.font?.color) return { ...part, line, fill: { ...part.fill, color: "white" } };
  return { ...part, line, fill: { ...part?.fill, color: ground }, font: { ...part?.font, color: theme.text } };
}

function axesOf(layout, theme) {
  const buttons = { bgcolor: theme.surface2, activecolor: theme.lineStrong };
  const axis = {
    gridcolor: theme.line,
    zerolinecolor: theme.lineStrong,
    linecolor: theme.line,
    tickcolor: theme.line,
    automargin: true,
  };
  const axes = { xaxis: axis, yaxis: axis };
  for (const [name, value] of Object.entries(layout)) {
    if (!AXIS.test(name)) continue;
    axes[name] = { ...axis, ...value };
    if (value?.rangeselector) axes[name].rangeselector = { ...buttons, ...value.rangeselector };
  }
  return axes;
}

/** The first of each kind also where the layout does not name it: a trace may stand in it all the same. */
function subplotsOf(layout, theme) {
  const found = {};
  for (const [pattern, first, make] of SUBPLOTS) {
    for (const name of new Set([first, ...Object.keys(layout).filter((key) => pattern.test(key))]))
      found[name] = make(layout[name], theme);
  }
  return found;
}

/** Legend, hover labels, notes, shapes and controls. */
function partsOf(layout, theme) {
  const unified = String(layout.hovermode).includes("unified") ? { bgcolor: theme.surface } : {};
  const control = { bgcolor: theme.surface2, bordercolor: theme.lineStrong };
  const inked = (part) =>
    part?.bgcolor && part.bgcolor !== CLEAR ? { ...part, font: { color: INK, ...part.font } } : part;
  const parts = {
    hoverlabel: {
      ...unified,
      ...layout.hoverlabel,
      font: { family: theme.sans, size: 12, ...layout.hoverlabel?.font },
    },
    legend: inked({ bgcolor: CLEAR, ...layout.legend }),
  };
  const each = (name, make) => Array.isArray(layout[name]) && Object.assign(parts, { [name]: layout[name].map(make) });
  each("annotations", (note) => ({ arrowcolor: theme.text2, ...inked(note) }));
  each("shapes", (shape) => ({ ...shape, line: { color: theme.text2, ...shape?.line } }));
  each("updatemenus", (menu) => (menu?.bgcolor ? inked(menu) : { ...control, ...menu }));
  each("sliders", (slider) => ({ ...control, ...slider }));
  return parts;
}

function subplotOf(names) {
  return (subplot, theme) => {
    const axis = { gridcolor: theme.line, linecolor: theme.lineStrong, tickcolor: theme.line };
    return {
      bgcolor: CLEAR,
      ...subplot,
      ...Object.fromEntries(names.map((name) => [name, { ...axis, ...subplot?.[name] }])),
    };
  };
}

function sceneOf(scene, theme) {
  const axis = { gridcolor: theme.line, zerolinecolor: theme.lineStrong, backgroundcolor: CLEAR, color: theme.text2 };
  return {
    bgcolor: CLEAR,
    ...scene,
    xaxis: { ...axis, ...scene?.xaxis },
    yaxis: { ...axis, ...scene?.yaxis },
    zaxis: { ...axis, ...scene?.zaxis },
  };
}
