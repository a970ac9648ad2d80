/** The Resources tab: what the machine did, over time, in groups. */

import { freshView } from "../charts/chart-card.js";
import { openFull } from "../charts/chart-full.js";
import { ChartsGrid } from "../charts/charts-grid.js";
import { byId, el } from "../common/dom.js";
import { SeriesTable } from "../charts/series.js";

// In the order in which one looks for a bottleneck; a title belongs to the first group with a word in it.
const GROUPS = [
  ["GPU", /gpu|cuda|nvidia|rocm/i],
  ["CPU", /cpu|load|core/i],
  ["Memory", /mem|rss|swap|ram\b/i],
  ["Disk", /disk|i\/?o\b|file/i],
  ["Network", /net|received|sent/i],
  ["Other", /./s],
];

export class Resources {
  /**
   * @param {string} taskId
   * @param {import("../charts/points.js").Points} points
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, points, onError) {
    this.views = new Map();
    this.table = new SeriesTable(taskId, "resource", () => this.#show(), onError);
    this.host = {
      points,
      table: this.table,
      settings: () => ({ x: /** @type {const} */ ("time"), log: false, halfLife: undefined }),
      viewOf: (key) => this.views.get(key) ?? this.views.set(key, freshView()).get(key),
      openFull: (group) => openFull(group, this.host, () => this.grids.forEach(({ grid }) => grid.reload())),
    };
    this.grids = GROUPS.map(([name, pattern]) => {
      const element = el("div", { class: "grid" });
      const section = el(
        "section",
        { class: "resource-group", hidden: true, "aria-label": name },
        el("h2", {}, /** @type {string} */ (name)),
        element,
      );
      byId("resource-groups").append(section);
      return { pattern: /** @type {RegExp} */ (pattern), section, grid: new ChartsGrid(element, this.host) };
    });
  }

  refresh() {
    this.table.refetch();
  }

  /** @param {Record<string, object>} updates  the live feed's */
  onPoints(updates) {
    if (!this.table.loaded) return;
    const changed = this.table.apply(updates);
    for (const { grid } of this.grids) grid.touch(changed);
  }

  #show() {
    const left = new Set(this.table.groups);
    for (const { pattern, section, grid } of this.grids) {
      const own = [...left].filter(({ title }) => pattern.test(title));
      for (const group of own) left.delete(group);
      section.hidden = own.length === 0;
      grid.show(own);
    }
    byId("no-resources").hidden = this.table.groups.length > 0;
  }
}
