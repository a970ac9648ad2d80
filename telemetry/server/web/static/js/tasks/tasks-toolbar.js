/** The table's controls: search, filters, order, pages and keys. They only change the query. */

import { byId, debounce, el, setAttribute, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { STATUSES, statusWord } from "../common/status.js";
import { WordsPicker } from "../common/picker.js";
import { ProjectTree } from "./project-tree.js";
import { ColumnsPicker } from "./tasks-columns.js";
import { columnLabel, isFiltered, NO_FILTERS, turnSort } from "./tasks-query.js";
import { seriesLabel } from "./tasks-rows.js";

const SEARCH_DELAY_MS = 220;
const field = (name) => /** @type {HTMLInputElement & HTMLSelectElement} */ (byId(name));

export class Toolbar {
  /**
   * @param {(changes: object) => void} change  merge into the query and fetch
   * @param {(on: boolean) => void} chooseAll  of this page
   */
  constructor(change, chooseAll) {
    this.change = change;
    this.metrics = /** @type {Map<string, string>} */ (new Map());
    this.sort = "";
    this.columns = "";
    this.chosenColumns = /** @type {string[]} */ ([]);
    this.all = /** @type {HTMLInputElement} */ (
      el("input", { type: "checkbox", "aria-label": "Select all tasks of this page" })
    );
    this.all.addEventListener("click", () => chooseAll(this.all.checked));
    const search = debounce(() => change({ search: field("search").value.trim(), page: 0 }), SEARCH_DELAY_MS);
    field("search").addEventListener("input", search);
    byId("toolbar").addEventListener("submit", (event) => event.preventDefault());
    for (const name of ["archived", "sort"]) {
      field(name).addEventListener("change", () => change({ [name]: field(name).value, page: 0 }));
    }
    field("page_size").addEventListener("change", () =>
      change({ page_size: Number(field("page_size").value), page: 0 }),
    );
    for (const id of ["clear", "clear-empty"]) {
      byId(id).addEventListener("click", () => {
        change(NO_FILTERS);
        field("search").focus();
      });
    }
    this.projects = new ProjectTree(change);
    this.statuses = new WordsPicker(byId("status"), "Status", (status) => change({ status, page: 0 }));
    this.statuses.offer(STATUSES.map((status) => [status, statusWord(status)]));
    this.types = new WordsPicker(byId("type"), "Type", (type) => change({ type, page: 0 }));
    this.match = ["any", "all"].map((word) =>
      el("button", { type: "button", onclick: () => change({ match: word, page: 0 }) }, `${word} of them`),
    );
    const match = el(
      "div",
      { class: "picker-extra segmented", role: "group", "aria-label": "A task needs" },
      ...this.match,
    );
    this.tags = new WordsPicker(byId("tags"), "Tags", (tags) => change({ tags, page: 0 }), match);
    this.columnsPicker = new ColumnsPicker(change);
  }

  /** Headings for these columns, made again only when they are others. */
  showHeaders(columns, query) {
    const state = JSON.stringify(columns);
    if (state !== this.columns) {
      this.columns = state;
      const cells = columns.map(({ key, label, sort, number, column }) => {
        const inside = sort
          ? el(
              "button",
              {
                type: "button",
                title: column,
                onclick: () => this.change({ sort: turnSort(this.sort, sort), page: 0 }),
              },
              label,
            )
          : el("span", {}, label);
        return el(
          "th",
          { role: "columnheader", scope: "col", class: number ? `${key} number` : key, "data-sort": sort },
          inside,
        );
      });
      byId("headers").replaceChildren(
        el("th", { role: "columnheader", scope: "col", class: "select-cell" }, this.all),
        ...cells,
      );
    }
    for (const cell of byId("headers").children) {
      const key = cell.getAttribute("data-sort");
      if (!key) continue;
      const order = query.sort === key ? "ascending" : query.sort === `-${key}` ? "descending" : "none";
      setAttribute(cell, "aria-sort", order);
    }
  }

  /** @param {number} chosen @param {number} shown  of the tasks of this page */
  showChosen(chosen, shown) {
    this.all.checked = shown > 0 && chosen === shown;
    this.all.indeterminate = chosen > 0 && chosen < shown;
  }

  /** Show the query in the controls; what a person is typing is left alone. */
  showQuery(query) {
    this.sort = query.sort;
    if (document.activeElement !== field("search")) field("search").value = query.search;
    for (const name of ["archived", "page_size"]) this.#select(field(name), String(query[name]));
    this.projects.show(query);
    this.statuses.show(query.status);
    this.types.show(query.type);
    this.tags.show(query.tags);
    this.columnsPicker.show(query);
    this.match.forEach((button, index) =>
      button.setAttribute("aria-pressed", String(query.match === ["any", "all"][index])),
    );
    this.chosenColumns = query.columns;
    this.#showSort();
    byId("clear").hidden = !isFiltered(query);
  }

  /** A value from the address that is not in the list (an unknown project) is still shown as chosen. */
  #select(select, value) {
    if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, value));
    select.value = value;
  }

  #showSort() {
    const fields = [
      ["-started", "Newest first"],
      ["started", "Oldest first"],
      ["-last_update", "Last updated"],
      ["name", "Name, A to Z"],
      ["-name", "Name, Z to A"],
      ["project", "Project"],
      ["-project", "Project, Z to A"],
      ["status", "Status"],
      ["-status", "Status, Z to A"],
      ["-progress", "Progress, high to low"],
      ["progress", "Progress, low to high"],
    ];
    const metrics = [...this.metrics].flatMap(([key, label]) => [
      [`-last:${key}`, `${label}, high to low`],
      [`last:${key}`, `${label}, low to high`],
    ]);
    const select = field("sort");
    const chosen = this.chosenColumns
      .flatMap((column) => [
        [`-${column}`, `${columnLabel(column)}, high to low`],
        [column, `${columnLabel(column)}, low to high`],
      ])
      .filter(([value]) => !metrics.some(([other]) => other === value));
    const wanted = [...fields, ...chosen, ...metrics].map(([value]) => value).join("\n");
    if (select.dataset.options !== wanted) {
      const options = (pairs) => pairs.map(([value, label]) => el("option", { value }, label));
      select.replaceChildren(...options(fields));
      if (chosen.length) select.append(el("optgroup", { label: "Chosen columns" }, ...options(chosen)));
      if (metrics.length) select.append(el("optgroup", { label: "Last value of" }, ...options(metrics)));
      select.dataset.options = wanted;
    }
    const key = this.sort.replace(/^-/, "");
    if (![...select.options].some(({ value }) => value === this.sort)) {
      const label = key.includes(":")
        ? columnLabel(key)
        : key.charAt(0).toUpperCase() + key.slice(1).replaceAll("_", " ");
      select.append(
        el("option", { value: this.sort }, `${label}${this.sort[0] === "-" ? ", high to low" : ", low to high"}`),
      );
    }
    select.value = this.sort;
  }

  /** Offer to sort by the scalars seen in these tasks. */
  offerMetrics(tasks) {
    for (const { title, series } of tasks.flatMap((task) => task.last_scalars ?? [])) {
      // A list of hundreds helps nobody; the address takes any `sort=-last:title/series`.
      if (this.metrics.size < 30) this.metrics.set(`${title}/${series}`, seriesLabel(title, series));
    }
    this.#showSort();
  }

  /** @param {any} choices  of the API: tags, types, and what can be a column */
  offerChoices(choices) {
    this.tags.offer(choices.tags.map((tag) => [tag, tag]));
    this.types.offer(choices.types.map((type) => [type, type.replaceAll("_", " ")]));
    this.columnsPicker.offer(choices);
  }

  /** @param {import("./tasks-query.js").Query} query @param {number} total @param {number} shown */
  showPages(query, total, shown) {
    const first = query.page * query.page_size;
    byId("pager").hidden = total === 0 || (total <= 25 && query.page === 0);
    setText(
      byId("range"),
      shown ? `${count(first + 1)}–${count(first + shown)} of ${count(total)}` : `none of ${count(total)}`,
    );
    const previous = /** @type {HTMLButtonElement} */ (byId("previous"));
    const next = /** @type {HTMLButtonElement} */ (byId("next"));
    previous.disabled = query.page === 0;
    next.disabled = first + shown >= total;
    previous.onclick = () =>
      this.#turnTo(Math.min(query.page - 1, Math.max(0, Math.ceil(total / query.page_size) - 1)));
    next.onclick = () => this.#turnTo(query.page + 1);
  }

  #turnTo(page) {
    this.change({ page });
    scrollTo({ top: 0 });
  }
}

/**
 * The keys of the table: "/" searches, j/k and arrows move (with Shift they choose), x and Space choose, c compares, Enter
 * opens (it is a link), Escape leaves the search or lets all go.
 * @param {import("./tasks-rows.js").Rows} rows
 * @param {import("./tasks-selection.js").Selection} selection
 */
export function listenForKeys(rows, selection) {
  const moves = { j: 1, J: 1, ArrowDown: 1, k: -1, K: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.id === "search" && event.key === "Escape") return target.blur();
    if (target.id === "search" && event.key === "ArrowDown") {
      event.preventDefault();
      return rows.move(1);
    }
    if (target.matches("input:not([type=checkbox]), select, textarea") || target.closest(".picker-panel")) return;
    if (event.key === "Escape") return selection.clear();
    if (event.key === "/") field("search").select();
    else if (moves[event.key]) rows.move(moves[event.key], event.shiftKey);
    else if (event.key === "x" || (event.key === " " && target.closest("#rows a"))) rows.toggle();
    else if (event.key === "c") selection.compare();
    else return;
    event.preventDefault();
  });
}
