/** One reported plot: its figure at one of its iterations, drawn while it can be seen. */

import { get, isAbort } from "../common/api.js";
import { chartTheme, drawSoon, erase } from "./chart-draw.js";
import { byId, debounce, el, iconButton, setText } from "../common/dom.js";
import { count, exact } from "../common/format.js";
import { IterationPicker } from "../common/iterations.js";
import { layoutOf, tracesOf } from "./plot-figure.js";

const LOAD_DELAY_MS = 90; // a slider passes many iterations on its way to one

/**
 * @typedef {{title: string, series: string, iteration: number, unix_ms: number, blob?: string}} PlotEntry
 * @typedef {{taskId: string, title: string, series: string, label: string, entries: PlotEntry[], color?: number | null, at?: number}} PlotOptions
 *   `entries`: one for each iteration, in order; `at`: the iteration to begin with, else the last
 */

export class PlotCard {
  /** @param {PlotOptions} options @param {() => void} [onClose]  given in full screen */
  constructor(options, onClose) {
    this.options = options;
    this.full = Boolean(onClose);
    this.visible = false;
    this.figure = /** @type {any} */ (null);
    this.loaded = "";
    this.abort = new AbortController();
    this.loadSoon = debounce(() => this.load(), LOAD_DELAY_MS);
    this.iterations = new IterationPicker(
      options.entries.map(({ iteration }) => iteration),
      () => this.loadSoon(),
      options.at,
    );
    this.plot = el("div", { class: "plot" });
    this.message = el("p", { class: "plot-message", hidden: true });
    const last = onClose
      ? iconButton("close", "Close full screen", onClose)
      : iconButton("expand", "Full screen", () => openPlot(this));
    const dot =
      options.color === null || options.color === undefined ? null : el("i", { class: "dot", "aria-hidden": "true" });
    if (dot) dot.style.background = `var(--series-${options.color})`;
    this.element = el(
      "article",
      {
        class: "card plot-card",
        "aria-label": `Plot ${options.title} ${options.series}`,
        tabindex: 0,
        "data-series": options.series,
        onkeydown: (event) => this.#onKey(event),
      },
      el("header", {}, dot, el("h3", { title: options.label }, options.label), el("span", { class: "spacer" }), last),
      el("div", { class: "plot-box" }, this.plot, this.message),
      this.iterations.element,
    );
    this.resized = new ResizeObserver(() => this.redraw());
    this.resized.observe(this.plot);
  }

  /** @param {PlotEntry[]} entries */
  setEntries(entries) {
    this.options.entries = entries;
    this.iterations.setIterations(entries.map(({ iteration }) => iteration));
    this.loadSoon();
  }

  setVisible(visible) {
    this.visible = visible;
    if (visible) this.load();
  }

  /** The entry that is shown now. */
  get entry() {
    return this.options.entries[this.iterations.index];
  }

  /** Whether its figure could not be read. */
  get failed() {
    return !this.message.hidden;
  }

  async load() {
    const { entry } = this;
    if (!this.visible || !entry) return;
    const wanted = `${entry.iteration} ${entry.unix_ms}`;
    if (wanted === this.loaded) return;
    this.abort.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    try {
      const figure = await figureOf(this.options.taskId, entry, signal);
      if (signal.aborted) return;
      this.loaded = wanted;
      this.figure = figure;
      this.plot.title = "";
      this.#say("");
      this.redraw();
    } catch (error) {
      if (!isAbort(error)) this.#say(`The plot could not be read: ${/** @type {Error} */ (error).message}`);
    }
  }

  redraw() {
    if (!this.figure || !this.visible) return;
    drawSoon(this.plot, (Plotly) => this.#draw(Plotly));
  }

  async #draw(Plotly) {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!this.figure || !width || !height) return;
    const { title, series, label } = this.options;
    try {
      const layout = layoutOf(this.figure.layout, chartTheme(), { width, height, names: [title, series, label] });
      await Plotly.react(this.plot, tracesOf(this.figure.data ?? [], this.figure.layout, chartTheme()), layout, {
        displayModeBar: false,
        scrollZoom: this.full,
        responsive: false,
        showTips: false,
      });
      this.plot.dataset.iteration = String(this.entry?.iteration);
      this.plot.dataset.traces = String((this.figure.data ?? []).length);
    } catch (error) {
      this.#say(`Plotly cannot draw this: ${/** @type {Error} */ (error).message}`);
    }
  }

  destroy() {
    this.visible = false;
    this.loadSoon.cancel();
    this.resized.disconnect();
    this.abort.abort();
    erase(this.plot);
    this.element.remove();
  }

  #onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "f" && !this.full) openPlot(this);
    else if (event.key === "ArrowLeft") this.iterations.step(-1);
    else if (event.key === "ArrowRight") this.iterations.step(1);
    else return;
    event.preventDefault();
  }

  #say(text) {
    setText(this.message, text);
    this.message.hidden = !text;
  }
}

/** The figure of an entry, from the API or, where it is large, from its blob. */
async function figureOf(taskId, entry, signal) {
  const { title, series, iteration, blob } = entry;
  if (blob) return get(`/tasks/${taskId}/blobs/${blob}`, {}, signal);
  const { plots } = await get(
    `/tasks/${taskId}/plots`,
    { title, series, iteration: String(iteration), figures: 1 },
    signal,
  );
  const found = plots.find((one) => one.title === title && one.series === series && one.iteration === iteration);
  if (!found) throw new Error("it is not there any more");
  if (found.blob) return get(`/tasks/${taskId}/blobs/${found.blob}`, {}, signal);
  return found.figure ?? {};
}

/** Open a plot over the whole window, at the iteration that it shows; Escape or its button closes it. */
function openPlot(from) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("full"));
  const card = new PlotCard({ ...from.options, at: from.entry?.iteration }, () => dialog.close());
  const redraw = () => card.redraw();
  dialog.replaceChildren(card.element);
  dialog.showModal();
  card.element.focus();
  document.addEventListener("themechange", redraw);
  card.setVisible(true);
  dialog.addEventListener(
    "close",
    () => {
      document.removeEventListener("themechange", redraw);
      card.destroy();
    },
    { once: true },
  );
}

/** "3 plots of 2 titles", and when the last was reported. */
export function plotSummary(entries) {
  const titles = new Set(entries.map(({ title }) => title)).size;
  const latest = Math.max(...entries.map(({ unix_ms: ms }) => ms ?? 0));
  return {
    text: `${count(entries.length)} ${entries.length === 1 ? "plot" : "plots"}, ${count(titles)} ${titles === 1 ? "title" : "titles"}`,
    hint: latest > 0 ? `The last one: ${exact(latest)}` : "",
  };
}

/** Cards of plots draw themselves while they are near the window. */
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) cards.get(entry.target)?.setVisible(entry.isIntersecting);
  },
  { rootMargin: "200px" },
);
const cards = /** @type {WeakMap<Element, PlotCard>} */ (new WeakMap());

/** @param {PlotCard} card */
export function watch(card) {
  cards.set(card.element, card);
  seen.observe(card.element);
}
document.addEventListener("themechange", () => {
  for (const element of document.querySelectorAll(".plot-card")) cards.get(element)?.redraw();
});
