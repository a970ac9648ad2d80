/** Scalars of several tasks: a chart for each metric, with a line for each task. */

import { get } from "../common/api.js";
import { freshView } from "../charts/chart-card.js";
import { openFull } from "../charts/chart-full.js";
import { ChartsGrid } from "../charts/charts-grid.js";
import { byId, debounce, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { Points } from "../charts/points.js";
import { bandOf, inOrder } from "../charts/series.js";
import { halfLife, POSITIONS, smoothingText } from "../charts/smoothing.js";

const SEARCH_DELAY_MS = 150;
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));

/**
 * The points of series of several tasks. The server numbers the series of each task by itself: here each has a number
 * of its own, and each task is asked for its own by the server's.
 */
class ManyPoints {
  constructor() {
    this.places = /** @type {Map<number, {task: string, id: number}>} */ (new Map());
    this.numbers = /** @type {Map<string, number>} */ (new Map());
    this.points = /** @type {Map<string, Points>} */ (new Map());
  }

  /** Return the number of a task's series among those of all; it stays the same. */
  number(task, id) {
    const known = this.numbers.get(`${task} ${id}`);
    if (known) return known;
    const number = this.numbers.size + 1;
    this.numbers.set(`${task} ${id}`, number);
    this.places.set(number, { task, id });
    return number;
  }

  async fetch(numbers, range, signal) {
    const byTask = new Map();
    for (const number of numbers) {
      const { task, id } = this.places.get(number) ?? { task: "", id: 0 };
      const own = byTask.get(task) ?? byTask.set(task, new Map()).get(task);
      own.set(id, number);
    }
    const answers = await Promise.all(
      [...byTask].map(async ([task, own]) => {
        const points = this.points.get(task) ?? this.points.set(task, new Points(task)).get(task);
        const answer = await /** @type {Points} */ (points).fetch([...own.keys()], range, signal);
        return [...answer].map(([id, found]) => /** @type {[number, any]} */ ([own.get(id), found]));
      }),
    );
    return new Map(answers.flat());
  }
}

export class ComparedScalars {
  /**
   * @param {import("./compare-page.js").Compared[]} tasks  filled and changed by the page
   * @param {(error: Error) => void} onError
   */
  constructor(tasks, onError) {
    this.tasks = tasks;
    this.onError = onError;
    const given = new URLSearchParams(location.search);
    this.search = given.get("charts") ?? "";
    this.x = /** @type {"iteration" | "time"} */ (given.get("x") === "time" ? "time" : "iteration");
    this.log = given.get("log") === "1";
    this.smoothing = Math.min(POSITIONS - 1, Math.max(0, Number.parseInt(given.get("smoothing") ?? "", 10) || 0));
    this.views = new Map();
    this.groups = /** @type {any[]} */ ([]);
    this.points = new ManyPoints();
    this.table = {
      kind: "scalar",
      groups: this.groups,
      byId: new Map(),
      colorsOf: (group) => group.series.map(({ color }) => color),
    };
    this.host = {
      points: this.points,
      table: this.table,
      settings: () => ({ x: this.x, log: this.log, halfLife: halfLife(this.smoothing, this.x) }),
      viewOf: (key) => this.views.get(key) ?? this.views.set(key, this.#freshView()).get(key),
      openFull: (group) => openFull(group, /** @type {any} */ (this.host), () => this.grid.reload()),
    };
    this.grid = new ChartsGrid(byId("charts"), /** @type {any} */ (this.host));
    this.#listen();
    this.#showControls();
  }

  #freshView() {
    const view = freshView();
    for (const task of this.tasks) if (task.hidden) view.hidden.add(task.label);
    return view;
  }

  async refresh() {
    try {
      const answers = await Promise.all(this.tasks.map(({ id }) => get(`/tasks/${id}/series`, { kind: "scalar" })));
      this.#arrange(answers.map(({ series }) => series));
      this.#showCharts();
    } catch (error) {
      this.onError(/** @type {Error} */ (error));
    }
  }

  /** One chart for each (title, series). Of a task with ranks the line is their mean, in its band. */
  #arrange(seriesOf) {
    const groups = new Map();
    this.table.byId.clear();
    seriesOf.forEach((series, index) => {
      const task = this.tasks[index];
      const ofMetric = new Map();
      for (const one of series) {
        const key = `${one.title}\n${one.series}`;
        ofMetric.set(key, [...(ofMetric.get(key) ?? []), one]);
        one.id = this.points.number(task.id, one.id);
        this.table.byId.set(one.id, one);
      }
      for (const [key, ranks] of ofMetric) {
        const [first] = ranks;
        const title = first.series === first.title ? first.title : `${first.title} / ${first.series}`;
        const group =
          groups.get(key) ?? groups.set(key, { key, title, unit: first.unit, series: [], bands: null }).get(key);
        for (const one of ranks) Object.assign(one, { label: task.label, color: task.color });
        const line = bandOf(ranks);
        if (line !== first) Object.assign(line, { label: task.label, color: task.color });
        group.series.push(line);
      }
    });
    this.groups = inOrder([...groups.values()], ({ title }) => title);
    this.table.groups = this.groups;
  }

  /** A task was hidden or shown again, in all charts. */
  showHidden() {
    for (const view of this.views.values()) {
      for (const task of this.tasks) {
        if (task.hidden) view.hidden.add(task.label);
        else view.hidden.delete(task.label);
      }
    }
    this.#showCharts();
    this.grid.redraw();
  }

  #listen() {
    input("smoothing").max = String(POSITIONS - 1);
    const reload = debounce(() => this.grid.reload(), 80);
    input("smoothing").addEventListener("input", () => {
      this.smoothing = Number(input("smoothing").value);
      this.#changed();
      reload();
    });
    input("chart-search").value = this.search;
    input("chart-search").addEventListener(
      "input",
      debounce(() => {
        this.search = input("chart-search").value.trim();
        this.#changed();
        this.#showCharts();
      }, SEARCH_DELAY_MS),
    );
    for (const x of /** @type {const} */ (["iteration", "time"])) {
      byId(`x-${x}`).addEventListener("click", () => {
        this.x = x;
        for (const view of this.views.values()) Object.assign(view, { range: null, yRange: null });
        this.#changed();
        this.grid.reload();
      });
    }
    byId("log-y").addEventListener("click", () => {
      this.log = !this.log;
      for (const view of this.views.values()) Object.assign(view, { log: null, yRange: null });
      this.#changed();
      this.grid.redraw();
    });
  }

  #changed() {
    putAddress({
      charts: this.search,
      x: this.x === "time" ? "time" : "",
      log: this.log ? "1" : "",
      smoothing: this.smoothing ? String(this.smoothing) : "",
    });
    this.#showControls();
  }

  #showControls() {
    input("smoothing").value = String(this.smoothing);
    const text = smoothingText(this.smoothing, this.x);
    setText(byId("smoothing-text"), text);
    input("smoothing").setAttribute("aria-valuetext", text);
    for (const x of ["iteration", "time"]) byId(`x-${x}`).setAttribute("aria-pressed", String(this.x === x));
    byId("log-y").setAttribute("aria-pressed", String(this.log));
  }

  #showCharts() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const groups = this.groups.filter(({ title }) => words.every((word) => title.toLowerCase().includes(word)));
    this.grid.show(groups);
    const noun = this.groups.length === 1 ? "metric" : "metrics";
    setText(
      byId("chart-count"),
      words.length
        ? `${count(groups.length)} of ${count(this.groups.length)} ${noun}`
        : `${count(this.groups.length)} ${noun}`,
    );
    byId("no-charts").hidden = groups.length > 0;
    setText(byId("no-charts"), this.groups.length ? "No metric has these words." : "None of these tasks has scalars.");
  }
}

/** Keep settings in the address; empty ones are left out. @param {Record<string, string>} values */
export function putAddress(values) {
  const given = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(values)) {
    if (value) given.set(name, value);
    else given.delete(name);
  }
  const text = given.toString().replaceAll("%2C", ",");
  history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
}
