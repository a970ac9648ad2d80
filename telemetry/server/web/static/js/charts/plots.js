/** The Plots tab: what was reported as figures, by title, at the last iteration or another one. */

import { get } from "../common/api.js";
import { arrange, byId, coalesce, debounce, el, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { PlotCard, plotSummary, watch } from "./plot-card.js";

const REFRESH_EVERY_MS = 1500;
const SEARCH_DELAY_MS = 150;

export class Plots {
  /**
   * @param {string} taskId
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, onError) {
    this.taskId = taskId;
    this.entries = /** @type {import("./plot-card.js").PlotEntry[]} */ ([]);
    this.loaded = false;
    this.detail = "";
    this.sections = /** @type {Map<string, HTMLElement>} */ (new Map());
    this.cards = /** @type {Map<string, PlotCard>} */ (new Map());
    this.refresh = coalesce(() => this.#fetch().catch(onError), REFRESH_EVERY_MS);
    byId("plot-search").addEventListener(
      "input",
      debounce(() => this.#show(), SEARCH_DELAY_MS),
    );
  }

  /** Scroll to a title (`#plots/confusion`), now or when it is there. */
  show(detail) {
    this.detail = detail;
    this.#jump();
  }

  /** Bytes arrived, perhaps those of a large figure: they have no event of their own. */
  onBytes() {
    for (const card of this.cards.values()) if (card.failed) card.load();
  }

  async #fetch() {
    this.entries = (await get(`/tasks/${this.taskId}/plots`, { figures: "0" })).plots;
    this.loaded = true;
    this.#show();
  }

  #show() {
    const words = /** @type {HTMLInputElement} */ (byId("plot-search")).value
      .toLowerCase()
      .split(/\s+/)
      .filter(Boolean);
    const titles = byTitle(this.entries);
    const shown = [...titles].filter(([title, series]) =>
      words.every((word) => `${title} ${[...series.keys()].join(" ")}`.toLowerCase().includes(word)),
    );
    const keep = new Set();
    for (const [title, series] of titles) for (const name of series.keys()) keep.add(`${title}\n${name}`);
    for (const [key, card] of this.cards) {
      if (keep.has(key)) continue;
      card.destroy();
      this.cards.delete(key);
    }
    arrange(
      byId("plots"),
      shown.map(([title, series]) => this.#section(title, series)),
    );
    const { text, hint } = this.entries.length ? plotSummary(this.entries) : { text: "", hint: "" };
    setText(byId("plot-count"), words.length ? `${count(shown.length)} of ${count(titles.size)} titles` : text);
    byId("plot-count").title = hint;
    byId("plots-toolbar").hidden = this.loaded && !this.entries.length;
    byId("no-plots").hidden = shown.length > 0;
    setText(
      byId("no-plots"),
      this.entries.length
        ? "No plot has these words in its title or series."
        : "No plots yet. logger.report_plotly(…), report_confusion_matrix(…), report_histogram(…) and others put them here.",
    );
    this.#jump();
  }

  #section(title, series) {
    const known = this.sections.get(title);
    const grid = el("div", { class: "plot-grid" });
    const section =
      known ??
      el(
        "section",
        { class: "plot-section", "aria-label": title, "data-title": title },
        el("h2", {}, title || "(no title)"),
        grid,
      );
    this.sections.set(title, section);
    const cards = [...series].map(([name, entries]) => this.#card(title, name, entries));
    arrange(
      /** @type {HTMLElement} */ (section.lastElementChild),
      cards.map(({ element }) => element),
    );
    return section;
  }

  #card(title, series, entries) {
    const key = `${title}\n${series}`;
    const known = this.cards.get(key);
    if (known) {
      known.setEntries(entries);
      return known;
    }
    const card = new PlotCard({ taskId: this.taskId, title, series, label: series || title, entries });
    this.cards.set(key, card);
    watch(card);
    return card;
  }

  #jump() {
    const section = this.detail ? this.sections.get(this.detail) : undefined;
    if (!section?.isConnected) return;
    this.detail = "";
    section.scrollIntoView({ block: "start" });
  }
}

/** @returns {Map<string, Map<string, import("./plot-card.js").PlotEntry[]>>} title → series → its iterations in order */
export function byTitle(entries) {
  const titles = new Map();
  for (const entry of entries) {
    const series = titles.get(entry.title) ?? titles.set(entry.title, new Map()).get(entry.title);
    series.set(entry.series, [...(series.get(entry.series) ?? []), entry]);
  }
  for (const series of titles.values())
    for (const list of series.values()) list.sort((a, b) => a.iteration - b.iteration);
  return titles;
}
