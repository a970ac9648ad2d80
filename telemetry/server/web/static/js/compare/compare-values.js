/** Single values and metrics side by side, as numbers. */

import { get } from "../common/api.js";
import { putAddress } from "./compare-scalars.js";
import { compareTable } from "./compare-table.js";
import { byId, debounce, el, setText } from "../common/dom.js";
import { count, isNonFinite, measure } from "../common/format.js";

const SEARCH_DELAY_MS = 120;
const MOST_ROWS = 2000;
const STATISTICS = ["last", "min", "max"];

export class ComparedValues {
  /**
   * @param {import("./compare-page.js").Compared[]} tasks
   * @param {(error: Error) => void} onError
   */
  constructor(tasks, onError) {
    this.tasks = tasks;
    this.onError = onError;
    const given = new URLSearchParams(location.search).get("statistic") ?? "";
    this.statistic = STATISTICS.includes(given) ? given : "last";
    this.found = /** @type {{values: any[], series: any[]}[]} */ ([]);
    byId("value-search").addEventListener(
      "input",
      debounce(() => this.#draw(), SEARCH_DELAY_MS),
    );
    for (const name of STATISTICS) {
      byId(`statistic-${name}`).addEventListener("click", () => {
        this.statistic = name;
        putAddress({ statistic: name === "last" ? "" : name });
        this.#draw();
      });
    }
    this.#showStatistic();
  }

  async refresh() {
    try {
      this.found = await Promise.all(
        this.tasks.map(async ({ id }) => {
          const [{ values }, { series }] = await Promise.all([
            get(`/tasks/${id}/values`),
            get(`/tasks/${id}/series`, { kind: "scalar" }),
          ]);
          return { values, series };
        }),
      );
      this.#draw();
    } catch (error) {
      this.onError(/** @type {Error} */ (error));
    }
  }

  #showStatistic() {
    for (const name of STATISTICS)
      byId(`statistic-${name}`).setAttribute("aria-pressed", String(name === this.statistic));
  }

  #draw() {
    this.#showStatistic();
    const words = /** @type {HTMLInputElement} */ (byId("value-search")).value
      .toLowerCase()
      .split(/\s+/)
      .filter(Boolean);
    const fits = (name) => words.every((word) => name.toLowerCase().includes(word));
    const singles = tableOf(this.found.map(({ values }) => new Map(values.map(({ name, value }) => [name, value]))));
    // Of several ranks the lowest stands for the task, as in the table of tasks.
    const metrics = tableOf(
      this.found.map(
        ({ series }) =>
          new Map(
            [...series].sort((a, b) => (b.rank ?? 0) - (a.rank ?? 0)).map((one) => [nameOf(one), one[this.statistic]]),
          ),
      ),
    );
    const rows = (table) =>
      table
        .filter(([name]) => fits(name))
        .slice(0, MOST_ROWS)
        .map(([name, values]) => ({ name, ...cellsOf(values) }));
    const groups = [
      { title: "Single values", rows: rows(singles) },
      { title: `Metrics, ${this.statistic} value`, rows: rows(metrics) },
    ];
    const shown = groups.reduce((sum, group) => sum + group.rows.length, 0);
    byId("value-table").replaceChildren(...(shown ? [compareTable(this.tasks, "Values side by side", groups)] : []));
    setText(byId("value-count"), `${count(singles.length)} single values, ${count(metrics.length)} metrics`);
    byId("no-values").hidden = shown > 0;
    setText(byId("no-values"), words.length ? "Nothing here has these words." : "None of these tasks has values.");
  }
}

const nameOf = ({ title, series }) => (series === title ? title : `${title} / ${series}`);

/** @param {Map<string, any>[]} maps @returns {[string, any[]][]} */
function tableOf(maps) {
  const names = [...new Set(maps.flatMap((map) => [...map.keys()]))].sort((a, b) =>
    a.localeCompare(b, "en", { numeric: true }),
  );
  return names.map((name) => [name, maps.map((map) => map.get(name))]);
}

/** The lowest and the highest of a row are marked: which of them is good, only the reader knows. */
function cellsOf(values) {
  const numbers = values.filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const marks = numbers.length > 1 && low < high;
  const cells = values.map((value) => {
    const text = measure(value);
    const mark = !marks ? "" : value === low ? "lowest" : value === high ? "highest" : "";
    return mark ? el("span", {}, text, " ", el("small", { class: "extreme" }, mark)) : text;
  });
  return { cells, classes: values.map((value) => (isNonFinite(value) ? "number bad" : "number")) };
}
