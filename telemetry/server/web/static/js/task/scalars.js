/** The Scalars tab: tiles of single values, and a chart per title. */

import { get } from "../common/api.js";
import { freshView } from "../charts/chart-card.js";
import { openFull } from "../charts/chart-full.js";
import { ChartsGrid } from "../charts/charts-grid.js";
import { byId, coalesce, debounce, el, setText } from "../common/dom.js";
import { count, exact, isNonFinite, measure } from "../common/format.js";
import { SeriesTable } from "../charts/series.js";
import { halfLife, POSITIONS, smoothingText } from "../charts/smoothing.js";

const SEARCH_DELAY_MS = 150;
const VALUES_EVERY_MS = 2000;
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));

export class Scalars {
  /**
   * @param {string} taskId
   * @param {import("../charts/points.js").Points} points
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, points, onError) {
    this.taskId = taskId;
    const given = new URLSearchParams(location.search);
    this.search = given.get("charts") ?? "";
    this.x = /** @type {"iteration" | "time"} */ (given.get("x") === "time" ? "time" : "iteration");
    this.log = given.get("log") === "1";
    this.smoothing = Math.min(POSITIONS - 1, Math.max(0, Number.parseInt(given.get("smoothing") ?? "", 10) || 0));
    this.allAttempts = given.get("attempts") === "all";
    this.views = new Map();
    this.table = new SeriesTable(taskId, "scalar", () => this.#showCharts(), onError);
    this.host = {
      points,
      table: this.table,
      settings: () => ({
        x: this.x,
        log: this.log,
        halfLife: halfLife(this.smoothing, this.x),
        allAttempts: this.allAttempts,
      }),
      viewOf: (key) => this.views.get(key) ?? this.views.set(key, freshView()).get(key),
      openFull: (group) => openFull(group, this.host, () => this.grid.reload()),
    };
    this.grid = new ChartsGrid(byId("charts"), this.host);
    this.refreshValues = coalesce(() => this.#fetchValues().catch(onError), VALUES_EVERY_MS);
    this.#listen();
    this.#showControls();
  }

  /** Fetch (again) what series and values there are. */
  refresh() {
    this.table.refetch();
    this.refreshValues();
  }

  /** @param {Record<string, object>} updates  the live feed's */
  onPoints(updates) {
    this.grid.touch(this.table.apply(updates));
  }

  /** Single values have no event of their own: they come beside points or the task's record. */
  onValuesMayHaveChanged() {
    this.refreshValues();
  }

  /** A job that was started again has points of earlier attempts, which can be shown too. */
  setTask(record) {
    byId("attempts").hidden = record?.task?.attempt === undefined;
  }

  #listen() {
    input("smoothing").max = String(POSITIONS - 1);
    const reload = debounce(() => this.grid.reload(), 80);
    input("smoothing").addEventListener("input", () => {
      this.smoothing = Number(input("smoothing").value);
      this.#changed();
      reload();
    });
    const search = debounce(() => {
      this.search = input("chart-search").value.trim();
      this.#changed();
      this.#showCharts();
    }, SEARCH_DELAY_MS);
    input("chart-search").value = this.search;
    input("chart-search").addEventListener("input", search);
    for (const x of /** @type {const} */ (["iteration", "time"]))
      byId(`x-${x}`).addEventListener("click", () => this.#chooseX(x));
    byId("attempts").addEventListener("click", () => this.#toggleAttempts());
    byId("log-y").addEventListener("click", () => {
      this.log = !this.log;
      for (const view of this.views.values()) Object.assign(view, { log: null, yRange: null });
      this.#changed();
      this.grid.redraw();
    });
  }

  #toggleAttempts() {
    this.allAttempts = !this.allAttempts;
    this.#changed();
    this.grid.reload();
  }

  #chooseX(x) {
    if (x === this.x) return;
    this.x = x;
    // A zoom in iterations means nothing in time.
    for (const view of this.views.values()) Object.assign(view, { range: null, yRange: null });
    this.#changed();
    this.grid.reload();
  }

  #changed() {
    const given = new URLSearchParams(location.search);
    const put = (name, value) => (value ? given.set(name, value) : given.delete(name));
    put("charts", this.search);
    put("x", this.x === "time" ? "time" : "");
    put("log", this.log ? "1" : "");
    put("attempts", this.allAttempts ? "all" : "");
    put("smoothing", this.smoothing ? String(this.smoothing) : "");
    const text = given.toString();
    history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
    this.#showControls();
  }

  #showControls() {
    input("smoothing").value = String(this.smoothing);
    const text = smoothingText(this.smoothing, this.x);
    setText(byId("smoothing-text"), text);
    input("smoothing").setAttribute("aria-valuetext", text);
    for (const x of ["iteration", "time"]) byId(`x-${x}`).setAttribute("aria-pressed", String(this.x === x));
    byId("log-y").setAttribute("aria-pressed", String(this.log));
    byId("attempts").setAttribute("aria-pressed", String(this.allAttempts));
  }

  #showCharts() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const all = this.table.groups;
    const matches = (group) => {
      const text =
        `${group.title} ${group.series.length < 50 ? group.series.map(({ series }) => series).join(" ") : ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const groups = words.length ? all.filter(matches) : all;
    this.grid.show(groups);
    const noun = all.length === 1 ? "chart" : "charts";
    setText(
      byId("chart-count"),
      words.length ? `${count(groups.length)} of ${count(all.length)} ${noun}` : `${count(all.length)} ${noun}`,
    );
    byId("scalars-toolbar").hidden = this.table.loaded && all.length === 0;
    byId("no-charts").hidden = groups.length > 0;
    setText(
      byId("no-charts"),
      all.length
        ? "No chart has these words in its title or series."
        : "No scalars yet. The first logger.report_scalar(title, series, value, iteration) makes a chart appear here.",
    );
  }

  async #fetchValues() {
    const { values } = await get(`/tasks/${this.taskId}/values`);
    byId("tiles").hidden = values.length === 0;
    byId("tiles").replaceChildren(
      ...values.map(({ name, value, unix_ms: ms }) =>
        el(
          "div",
          { class: "tile", title: `${name} = ${value}, ${exact(ms)}` },
          el("span", { class: "tile-name" }, name),
          el("span", { class: isNonFinite(value) ? "tile-value bad" : "tile-value" }, measure(value)),
        ),
      ),
    );
  }
}
