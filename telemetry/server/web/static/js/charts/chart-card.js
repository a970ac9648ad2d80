/** One chart: its head with legend and buttons, its points, its zoom. */

import { isAbort } from "../common/api.js";
import { chartTheme, drawSoon, erase } from "./chart-draw.js";
import { displayUnit, figure, localShift } from "./chart-figure.js";
import { coalesce, debounce, el, iconButton, setText } from "../common/dom.js";
import { count, isNonFinite, measure } from "../common/format.js";

const SETTLE_MS = 60; // a chart that only flies past while scrolling is not fetched
const ZOOM_DELAY_MS = 150;
const LIVE_EVERY_MS = 1000;
const MARGIN = 0.08; // fetched beyond each edge of a zoom, so that lines run out of the picture
const MAX_SERIES = 40; // beyond it a chart is unreadable and slow; the rest is named and one click away
const STEP = 0.25; // of the width, for keys
const FEW_MACHINES = 16;

/**
 * What a card is given by the tab it lives in.
 * @typedef {{points: import("./points.js").Points, table: import("./series.js").SeriesTable,
 *   settings: () => {x: "iteration" | "time", log: boolean, halfLife: number | undefined, allAttempts?: boolean},
 *   viewOf: (key: string) => import("./chart-figure.js").View, openFull: ((group: import("./series.js").Group) => void) | null}} Host
 */

/** @returns {import("./chart-figure.js").View} a chart as it is before anyone touched it */
export const freshView = () => ({
  range: null,
  yRange: null,
  log: null,
  hidden: new Set(),
  allSeries: false,
  eachRank: null,
});

export class ChartCard {
  /**
   * @param {import("./series.js").Group} group
   * @param {Host} host
   * @param {() => void} [onClose]  given in full screen
   */
  constructor(group, host, onClose) {
    this.group = group;
    this.host = host;
    this.full = Boolean(onClose);
    this.view = host.viewOf(group.key);
    this.found = /** @type {Map<number, import("./points.js").PointsOf> | null} */ (null);
    this.visible = false;
    this.dragging = false;
    this.stale = true; // its points are not those of now
    this.undrawn = false; // its points are, but not its picture: a new theme or width
    this.abort = new AbortController();
    this.refreshLive = coalesce(() => this.load(), LIVE_EVERY_MS);
    this.zoomed = debounce(() => this.load(), ZOOM_DELAY_MS);
    this.settleTimer = 0;
    this.badge = el("span", { class: "badge bad", hidden: true });
    this.more = el("button", { type: "button", class: "badge more", hidden: true, onclick: () => this.#showAll() });
    this.ranksButton = el("button", {
      type: "button",
      class: "badge more",
      hidden: true,
      onclick: () => this.#toggleRanks(),
    });
    this.resetButton = iconButton("reset", "Reset zoom (double-click)", () => this.resetZoom());
    this.logButton = iconButton("log", "Logarithmic y axis", () => this.#toggleLog());
    this.legend = el("div", { class: "legend" });
    this.plot = el("div", { class: "plot" });
    this.message = el("p", { class: "plot-message", hidden: true });
    this.element = this.#build(onClose);
    this.#showHead();
  }

  #build(onClose) {
    const last = onClose
      ? iconButton("close", "Close full screen", onClose)
      : iconButton("expand", "Full screen", () => this.host.openFull?.(this.group));
    const title = el("h3", { title: this.group.title }, this.group.title || "(no title)");
    return el(
      "article",
      {
        class: "card",
        tabindex: 0,
        "aria-label": `Chart ${this.group.title}`,
        "data-title": this.group.title,
        onkeydown: (event) => this.#onKey(event),
      },
      el(
        "header",
        {},
        title,
        this.badge,
        this.ranksButton,
        this.more,
        el("span", { class: "spacer" }),
        this.resetButton,
        this.logButton,
        last,
      ),
      this.legend,
      el("div", { class: "plot-box" }, this.plot, this.message),
    );
  }

  /** Charts draw themselves only while they can be seen. */
  setVisible(visible) {
    this.visible = visible;
    clearTimeout(this.settleTimer);
    if (visible && this.stale) this.settleTimer = setTimeout(() => this.load(), SETTLE_MS);
    else if (visible && this.undrawn) this.redraw();
  }

  /** New points came, or a setting changed: fetch now if seen, else when seen. */
  touch() {
    this.stale = true;
    this.#showHead();
    if (this.visible) this.refreshLive();
  }

  /** The series of this chart changed. */
  setGroup(group) {
    this.group = group;
    this.touch();
  }

  destroy() {
    this.visible = false;
    clearTimeout(this.settleTimer);
    this.zoomed.cancel();
    this.abort.abort();
    erase(this.plot);
    this.element.remove();
  }

  /** Fetch what the view shows and draw it; an older answer on its way is dropped. */
  async load() {
    if (!this.visible || this.dragging) return;
    this.abort.abort();
    this.abort = new AbortController();
    this.stale = false;
    const { x, halfLife, allAttempts } = this.host.settings();
    const { signal } = this.abort;
    try {
      const found = await this.#fetch(
        { x, ...this.#range(), ...(allAttempts && { attempts: "all" }) },
        halfLife,
        signal,
      );
      if (signal.aborted) return;
      this.found = found;
      this.#say("");
      this.redraw();
    } catch (error) {
      if (isAbort(error)) return;
      this.stale = true;
      this.#say(`The points could not be read: ${error.message}`);
    }
  }

  /** Points of single series and bands of ranks come from two places, by the same ids. */
  async #fetch(range, halfLife, signal) {
    const idsOf = (series) => series.map(({ id }) => id);
    const banded = this.#series().filter(({ ranks }) => ranks);
    const single = this.#series().filter(({ ranks }) => !ranks);
    const answers = await Promise.all([
      single.length ? this.host.points.fetch(idsOf(single), { ...range, half_life: halfLife }, signal) : new Map(),
      banded.length ? this.host.points.fetch(idsOf(banded), { ...range, bands: true }, signal) : new Map(),
    ]);
    return new Map([...answers[0], ...answers[1]]);
  }

  /** Draw what is there, in the size, theme and settings of now. */
  redraw() {
    this.undrawn = true;
    if (!this.found || !this.visible) return;
    drawSoon(this.plot, (Plotly) => this.#draw(Plotly));
  }

  #draw(Plotly) {
    if (!this.found || !this.visible || this.dragging || !this.plot.clientWidth) return;
    const { x, log, halfLife } = this.host.settings();
    const theme = chartTheme();
    const group = { ...this.group, series: this.#series() };
    const colors = this.host.table.colorsOf(group).map((index) => theme[`series${index}`]);
    const coarse = matchMedia("(pointer: coarse)").matches;
    const { traces, layout } = figure({
      group,
      points: this.found,
      colors,
      view: this.view,
      x,
      log: this.view.log ?? log,
      smooth: halfLife !== undefined,
      width: this.plot.clientWidth,
      height: this.plot.clientHeight,
      theme,
      // A finger on a chart in the list scrolls the page; in full screen it zooms.
      drag: coarse && !this.full ? false : "zoom",
    });
    this.undrawn = false;
    const first = !this.plot.classList.contains("js-plotly-plot");
    Plotly.react(this.plot, traces, layout, {
      displayModeBar: false,
      doubleClick: false,
      scrollZoom: this.full,
      showTips: false,
      responsive: false,
    });
    if (first) this.#listen();
    this.plot.dataset.points = String(traces.reduce((sum, trace) => sum + trace.x.length, 0));
    this.#showHead();
  }

  #listen() {
    const plot = /** @type {any} */ (this.plot);
    plot.on("plotly_relayouting", () => (this.dragging = true));
    plot.on("plotly_relayout", (change) => this.#onRelayout(change));
    plot.on("plotly_doubleclick", () => this.resetZoom());
  }

  #onRelayout(change) {
    this.dragging = false;
    const x = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const y = change["yaxis.range"] ?? [change["yaxis.range[0]"], change["yaxis.range[1]"]];
    if (x[0] !== undefined && x[1] !== undefined) this.view.range = x.map((value) => this.#fromAxis(value));
    if (y[0] !== undefined && y[1] !== undefined) this.view.yRange = y;
    this.#showHead();
    this.zoomed();
  }

  /** Plotly gives dates as text in its own UTC, see localShift. */
  #fromAxis(value) {
    if (typeof value === "number") return this.host.settings().x === "time" ? value - localShift(Date.now()) : value;
    const text = value.includes(" ") ? value.replace(" ", "T") : value;
    return Date.parse(`${text.length > 10 ? text : `${text}T00:00`}Z`) - localShift(Date.now());
  }

  resetZoom() {
    this.view.range = null;
    this.view.yRange = null;
    this.dragging = false;
    this.#showHead();
    this.load();
  }

  /** Keys: arrows pan, + and - zoom, 0 resets, f opens full screen. */
  #onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => this.#moveRange(-STEP, 1),
      ArrowRight: () => this.#moveRange(STEP, 1),
      "+": () => this.#moveRange(0, 0.5),
      "=": () => this.#moveRange(0, 0.5),
      "-": () => this.#moveRange(0, 2),
      0: () => this.resetZoom(),
      f: () => this.host.openFull?.(this.group),
      l: () => this.#toggleLog(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  /** Move the view by `shift` widths and scale its width, around its middle. */
  #moveRange(shift, scale) {
    const axis = /** @type {any} */ (this.plot)._fullLayout?.xaxis;
    const range = this.view.range ?? axis?.range.map((value) => this.#fromAxis(value));
    if (!range) return;
    const width = range[1] - range[0];
    const middle = (range[0] + range[1]) / 2 + shift * width;
    this.view.range = [middle - (width * scale) / 2, middle + (width * scale) / 2];
    this.#showHead();
    this.redraw();
    this.zoomed();
  }

  /** @returns {{from?: number, to?: number, max_samples: number}} two points a pixel over what is drawn */
  #range() {
    // In steps, so that charts of almost the same width share a request.
    const samples = Math.max(200, Math.ceil((2 * (this.plot.clientWidth || 500)) / 200) * 200);
    if (!this.view.range) return { max_samples: samples };
    const [low, high] = this.view.range;
    const margin = (high - low) * MARGIN;
    return {
      from: Math.floor(low - margin),
      to: Math.ceil(high + margin),
      max_samples: Math.ceil(samples * (1 + 2 * MARGIN)),
    };
  }

  /** One line with a band for each name, or each rank by itself. */
  #all() {
    const { bands, series } = this.group;
    if (!bands) return series;
    // A few machines one wants to see side by side; of training's ranks first the whole.
    const each = this.view.eachRank ?? (this.host.table.kind === "resource" && series.length <= FEW_MACHINES);
    return each ? series : bands;
  }

  #series() {
    return this.view.allSeries ? this.#all() : this.#all().slice(0, MAX_SERIES);
  }

  #toggleRanks() {
    this.view.eachRank = this.#all() === this.group.bands;
    this.view.hidden.clear();
    this.found = null;
    this.#showHead();
    this.load();
  }

  #showAll() {
    this.view.allSeries = true;
    this.load();
  }

  #toggleLog() {
    this.view.log = !(this.view.log ?? this.host.settings().log);
    this.view.yRange = null;
    this.#showHead();
    this.redraw();
  }

  #toggleSeries(name) {
    if (!this.view.hidden.delete(name)) this.view.hidden.add(name);
    this.#showHead();
    this.redraw();
  }

  #say(text) {
    setText(this.message, text);
    this.message.hidden = !text;
  }

  #showHead() {
    const series = this.#series();
    const bad = this.group.series.reduce((sum, one) => sum + one.non_finite, 0);
    setText(this.badge, `${count(bad)} not finite`);
    this.badge.hidden = bad === 0;
    this.badge.title = `${count(bad)} values of this chart are NaN or infinite; they are marked at its edges`;
    setText(this.more, `${series.length} of ${count(this.#all().length)} series: show all`);
    this.more.hidden = series.length === this.#all().length;
    this.ranksButton.hidden = !this.group.bands;
    const banded = this.#all() === this.group.bands;
    setText(this.ranksButton, banded ? "mean of ranks" : "each rank");
    this.ranksButton.title = banded
      ? "The mean of all ranks, between the lowest and the highest; show each rank by itself"
      : "Each rank by itself; show their mean between the lowest and the highest";
    this.ranksButton.setAttribute("aria-pressed", String(!banded));
    this.resetButton.hidden = !this.view.range && !this.view.yRange;
    this.logButton.setAttribute("aria-pressed", String(this.view.log ?? this.host.settings().log));
    this.#showLegend(series);
  }

  #showLegend(series) {
    const colors = this.host.table.colorsOf({ ...this.group, series });
    const largest = Math.max(0, ...this.group.series.map(({ max }) => Math.abs(max ?? 0)));
    const unit = displayUnit(this.group.unit ?? "", largest);
    series.forEach((one, index) => {
      let item = /** @type {HTMLButtonElement | undefined} */ (this.legend.children[index]);
      if (!item) {
        item = el("button", { type: "button" }, el("i", { "aria-hidden": "true" }), el("span", {}), el("b", {}));
        this.legend.append(item);
      }
      const [dot, name, value] = /** @type {any} */ (item.children);
      item.onclick = () => this.#toggleSeries(one.label);
      item.title = one.ranks
        ? `${one.label}: mean of ${count(one.ranks.length)} ranks; show or hide`
        : `${one.label}: show or hide`;
      item.setAttribute("aria-pressed", String(!this.view.hidden.has(one.label)));
      dot.style.background = `var(--series-${colors[index]})`;
      setText(name, one.label);
      // Of a machine's figures nobody wants the fifth digit.
      const last =
        typeof one.last !== "number"
          ? one.last
          : this.group.unit
            ? Number((one.last / unit.factor).toPrecision(3))
            : one.last;
      setText(value, `${measure(last)}${unit.label && !isNonFinite(last) ? ` ${unit.label}` : ""}`);
      value.classList.toggle("bad", isNonFinite(last));
    });
    while (this.legend.children.length > series.length) this.legend.lastElementChild?.remove();
  }
}
