/** The columns of the task table: which there are, and the panel in which they are chosen. */

import { byId, el } from "../common/dom.js";
import { Picker, searchField } from "../common/picker.js";
import { columnLabel, DEFAULTS } from "./tasks-query.js";

/** Columns that are always there, in order: key, heading, and the API's sort key where it has one. */
export const COLUMNS = [
  { key: "name", label: "Name", sort: "name" },
  { key: "project", label: "Project", sort: "project" },
  { key: "status-cell", label: "Status", sort: "status" },
  { key: "tags-cell", label: "Tags" },
  { key: "progress-cell", label: "Progress", sort: "progress" },
  { key: "started", label: "Started", sort: "started" },
  { key: "duration", label: "Duration", number: true, sort: "active_duration" },
  { key: "iteration", label: "Iteration", number: true, sort: "last_iteration" },
  { key: "scalars-cell", label: "Last scalars" },
  { key: "points", label: "Points", number: true },
];

const BEFORE_CHOSEN = ["name", "project", "status-cell", "tags-cell"];

/**
 * The columns that a query shows, in order.
 * @param {import("./tasks-query.js").Query} query
 * @returns {{key: string, label: string, sort?: string, number?: boolean, column?: string}[]}
 */
export function columnsOf(query) {
  const hidden = new Set(query.hide);
  // Whoever chose columns does not want what is cut off at the edge of another one.
  const fixed = COLUMNS.filter(({ key }) => !hidden.has(key) && !(query.columns.length && key === "scalars-cell"));
  const chosen = query.columns.map((column) => ({
    key: "chosen",
    label: columnLabel(column),
    sort: column,
    column,
    number: !/^(param|property):/.test(column),
  }));
  const at = fixed.findIndex(({ key }) => !BEFORE_CHOSEN.includes(key));
  return at < 0 ? [...fixed, ...chosen] : [...fixed.slice(0, at), ...chosen, ...fixed.slice(at)];
}

const GROUPS = [
  ["parameters", "Parameters", [["param:", ""]]],
  ["properties", "User properties", [["property:", ""]]],
  ["values", "Single values", [["value:", ""]]],
  [
    "metrics",
    "Metrics",
    [
      ["last:", "last"],
      ["min:", "min"],
      ["max:", "max"],
    ],
  ],
];

export class ColumnsPicker {
  /** @param {(changes: object) => void} change */
  constructor(change) {
    this.change = change;
    this.choices = /** @type {Record<string, string[]>} */ ({});
    this.query = DEFAULTS;
    this.picker = new Picker(byId("columns"), "Columns", () => this.#draw());
  }

  /** @param {Record<string, string[]>} choices  of the API */
  offer(choices) {
    const changed = JSON.stringify(choices) !== JSON.stringify(this.choices);
    this.choices = choices;
    if (changed) this.picker.redraw(() => this.#draw());
  }

  show(query) {
    this.query = query;
    this.picker.showChosen(query.columns.length ? String(query.columns.length) : "");
  }

  #draw() {
    const fixed = COLUMNS.slice(1).map(({ key, label }) =>
      el(
        "label",
        { class: "choice", "data-text": label.toLowerCase() },
        this.#box(!this.query.hide.includes(key), (on) =>
          this.change({ hide: on ? this.query.hide.filter((other) => other !== key) : [...this.query.hide, key] }),
        ),
        el("span", {}, label),
      ),
    );
    const groups = GROUPS.map(([name, label, kinds]) => {
      const items = (this.choices[/** @type {string} */ (name)] ?? []).map((item) =>
        this.#item(item, /** @type {[string, string][]} */ (kinds)),
      );
      return items.length ? group(/** @type {string} */ (label), items) : null;
    });
    const list = el("div", { class: "picker-list" }, ...groups, group("Always offered", fixed));
    const none = el("p", { class: "muted picker-none", hidden: true });
    const reset = el(
      "button",
      { type: "button", class: "button small", onclick: () => this.#reset() },
      "Reset columns",
    );
    this.picker.panel.replaceChildren(searchField(list, none), list, none, el("div", { class: "picker-extra" }, reset));
  }

  #reset() {
    this.change({ columns: [], hide: [] });
    this.#draw();
  }

  /** A name with a box for it, or one for each of its statistics. */
  #item(item, kinds) {
    const boxes = kinds.map(([prefix, word]) => {
      const column = prefix + item;
      const box = this.#box(this.query.columns.includes(column), (on) =>
        this.change({
          columns: on ? [...this.query.columns, column] : this.query.columns.filter((other) => other !== column),
        }),
      );
      return word ? el("label", { class: "choice" }, box, el("span", {}, word)) : box;
    });
    const name = el("span", { title: item }, item);
    if (kinds.length === 1) return el("label", { class: "choice", "data-text": item.toLowerCase() }, ...boxes, name);
    return el(
      "div",
      { class: "choice several", role: "group", "aria-label": item, "data-text": item.toLowerCase() },
      name,
      ...boxes,
    );
  }

  #box(checked, set) {
    const box = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", checked }));
    box.addEventListener("change", () => set(box.checked));
    return box;
  }
}

const group = (label, items) =>
  el("div", { "data-group": label, role: "group", "aria-label": label }, el("h3", {}, label), ...items);
