/** The Debug samples tab: images and other media by title and series, at the last iteration or another one. */

import { get } from "../common/api.js";
import { blobAddress, downloadLink, kindOf } from "../common/blob.js";
import { arrange, byId, coalesce, debounce, el, setText } from "../common/dom.js";
import { bytes, count } from "../common/format.js";
import { IterationPicker } from "../common/iterations.js";
import { openLightbox } from "./lightbox.js";
import { byTitle } from "../charts/plots.js";

const REFRESH_EVERY_MS = 1500;
const SEARCH_DELAY_MS = 150;

export class Samples {
  /**
   * @param {string} taskId
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, onError) {
    this.taskId = taskId;
    this.entries = /** @type {any[]} */ ([]);
    this.loaded = false;
    this.more = false;
    this.detail = "";
    this.sections = /** @type {Map<string, Title>} */ (new Map());
    this.refresh = coalesce(() => this.#fetch().catch(onError), REFRESH_EVERY_MS);
    byId("sample-search").addEventListener(
      "input",
      debounce(() => this.#show(), SEARCH_DELAY_MS),
    );
  }

  /** Scroll to a title (`#samples/predictions`), now or when it is there. */
  show(detail) {
    this.detail = detail;
    this.#jump();
  }

  /** Bytes arrived, perhaps those of a sample: they have no event of their own. */
  onBytes() {
    if (this.entries.some(({ state }) => state === "pending")) this.refresh();
  }

  async #fetch() {
    const { media, more } = await get(`/tasks/${this.taskId}/media`);
    this.entries = media;
    this.more = more;
    this.loaded = true;
    this.#show();
  }

  #show() {
    const words = /** @type {HTMLInputElement} */ (byId("sample-search")).value
      .toLowerCase()
      .split(/\s+/)
      .filter(Boolean);
    const titles = byTitle(this.entries);
    const shown = [...titles].filter(([title, series]) =>
      words.every((word) => `${title} ${[...series.keys()].join(" ")}`.toLowerCase().includes(word)),
    );
    arrange(
      byId("samples"),
      shown.map(([title, series]) => {
        const known = this.sections.get(title) ?? new Title(this.taskId, title);
        this.sections.set(title, known);
        known.show(series);
        return known.element;
      }),
    );
    const noun = this.entries.length === 1 ? "sample" : "samples";
    setText(
      byId("sample-count"),
      words.length
        ? `${count(shown.length)} of ${count(titles.size)} titles`
        : `${count(this.entries.length)} ${noun}${this.more ? "; there are more" : ""}`,
    );
    byId("samples-toolbar").hidden = this.loaded && !this.entries.length;
    byId("no-samples").hidden = shown.length > 0;
    setText(
      byId("no-samples"),
      this.entries.length
        ? "No sample has these words in its title or series."
        : "No debug samples yet. logger.report_image(title, series, iteration, image=…) and report_media(…) put them here.",
    );
    this.#jump();
  }

  #jump() {
    const section = this.detail ? this.sections.get(this.detail)?.element : undefined;
    if (!section?.isConnected) return;
    this.detail = "";
    section.scrollIntoView({ block: "start" });
  }
}

/** A title: one choice of the iteration for all of its series. */
class Title {
  constructor(taskId, title) {
    this.taskId = taskId;
    this.series = /** @type {Map<string, any[]>} */ (new Map());
    this.tiles = /** @type {Map<string, {state: string, element: HTMLElement}>} */ (new Map());
    this.picker = new IterationPicker([], () => this.#draw());
    this.grid = el("div", { class: "sample-grid" });
    this.element = el(
      "section",
      { class: "sample-section", "aria-label": title, "data-title": title },
      el("header", { class: "sample-head" }, el("h2", {}, title || "(no title)"), this.picker.element),
      this.grid,
    );
  }

  show(series) {
    this.series = series;
    const iterations = [
      ...new Set([...series.values()].flatMap((list) => list.map(({ iteration }) => iteration))),
    ].sort((a, b) => a - b);
    this.picker.setIterations(iterations);
    this.#draw();
  }

  /** Of each series what it had at the chosen iteration, or last before it. */
  get #shown() {
    const at = this.picker.iterations[this.picker.index];
    return [...this.series].flatMap(([name, list]) => {
      const entry = list.findLast(({ iteration }) => iteration <= at);
      return entry ? [{ ...entry, label: name, at }] : [];
    });
  }

  #draw() {
    const shown = this.#shown;
    const tiles = shown.map((entry) => {
      const state = JSON.stringify([entry.uri, entry.state, entry.iteration, entry.iteration === entry.at]);
      const known = this.tiles.get(entry.label);
      if (known?.state === state) return known.element;
      const element = tileOf(this.taskId, entry, () => openLightbox(this.taskId, this.#shown.filter(isImage), entry));
      this.tiles.set(entry.label, { state, element });
      return element;
    });
    arrange(this.grid, tiles);
  }
}

const isImage = (entry) =>
  kindOf(entry.content_type) === "image" && entry.state !== "pending" && blobAddress("", entry.uri);

/** One sample, as what its kind can be in a page. */
function tileOf(taskId, entry, open) {
  const { label, title, series, filename, iteration, at } = entry;
  const source = blobAddress(taskId, entry.uri, true);
  const name = `${title} ${series}`;
  const earlier = iteration === at ? null : el("span", { class: "muted" }, `iteration ${count(iteration)}`);
  const caption = el(
    "figcaption",
    {},
    el("span", { class: "tile-label", title: label }, label || filename || title),
    earlier,
  );
  const box = (...inside) =>
    el("figure", { class: "sample", "data-series": label }, el("div", { class: "sample-box" }, ...inside), caption);
  if (entry.state === "pending" || entry.state === "failed")
    return box(
      el(
        "p",
        { class: "muted" },
        entry.state === "pending" ? "Its bytes are on their way." : "Its bytes could not be stored.",
      ),
    );
  const kind = kindOf(entry.content_type);
  if (source && kind === "image") {
    const image = el("img", {
      src: source,
      alt: `${name}, iteration ${iteration}`,
      loading: "lazy",
      decoding: "async",
    });
    image.addEventListener("error", () =>
      image.replaceWith(el("span", { class: "muted" }, "The image cannot be shown.")),
    );
    return box(
      el("button", { type: "button", class: "sample-open", "aria-label": `Enlarge ${name}`, onclick: open }, image),
    );
  }
  if (source && (kind === "audio" || kind === "video"))
    return box(el(kind, { src: source, controls: true, preload: "metadata", "aria-label": name }));
  const size = entry.size_bytes ? bytes(entry.size_bytes) : "";
  const elsewhere = source ? "" : entry.uri;
  return box(
    el(
      "p",
      { class: "sample-file" },
      el("code", {}, filename || elsewhere),
      el("span", { class: "muted" }, [entry.content_type, size].filter(Boolean).join(", ")),
    ),
    downloadLink(taskId, entry, filename || name),
  );
}
