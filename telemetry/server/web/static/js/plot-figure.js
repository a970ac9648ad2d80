/** Reported figures in the colours of the page. */

const AXIS = /^[xy]axis\d*$/;
const SCENE = /^scene\d*$/;

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
  if (rest.paper_bgcolor && rest.paper_bgcolor !== "rgba(0,0,0,0)") return { ...own, margin };
  const axis = { gridcolor: theme.line, zerolinecolor: theme.lineStrong, linecolor: theme.line, tickcolor: theme.line, automargin: true };
  const axes = { xaxis: axis, yaxis: axis };
  for (const [name, value] of Object.entries(rest)) {
    if (AXIS.test(name)) axes[name] = { ...axis, ...value };
    if (SCENE.test(name)) axes[name] = sceneOf(value, theme);
  }
  return {
    ...own, ...axes, margin, ...(axes.scene ? {} : { scene: sceneOf({}, theme) }),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: rest.plot_bgcolor ?? "rgba(0,0,0,0)",
    font: { family: theme.sans, size: 12, color: theme.text, ...rest.font },
    hoverlabel: { font: { family: theme.sans, size: 12 }, ...rest.hoverlabel },
    legend: { bgcolor: "rgba(0,0,0,0)", ...rest.legend },
    colorway: rest.colorway ?? Array.from({ length: 10 }, (_, index) => theme[`series${index}`]),
  };
}

function sceneOf(scene, theme) {
  const axis = { gridcolor: theme.line, zerolinecolor: theme.lineStrong, backgroundcolor: "rgba(0,0,0,0)", color: theme.text2 };
  return { bgcolor: "rgba(0,0,0,0)", ...scene, xaxis: { ...axis, ...scene?.xaxis }, yaxis: { ...axis, ...scene?.yaxis }, zaxis: { ...axis, ...scene?.zaxis } };
}
