/** The table's controls: search, filters, order, pages and keys. They only change the query. */

import { byId, debounce, el, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";
import { STATUSES, statusWord } from "./status.js";
import { isFiltered, turnSort } from "./tasks-query.js";
import { COLUMNS, seriesLabel } from "./tasks-rows.js";

const SEARCH_DELAY_MS = 220;
const field = (name) => /** @type {HTMLInputElement & HTMLSelectElement} */ (byId(name));

export class Toolbar {
  /**
   * @param {(changes: object) => void} change  merge into the query and fetch
   */
  constructor(change) {
    this.change = change;
    this.metrics = /** @type {Map<string, string>} */ (new Map());
    this.sort = "";
    const search = debounce(() => change({ search: field("search").value.trim(), page: 0 }), SEARCH_DELAY_MS);
    field("search").addEventListener("input", search);
    byId("toolbar").addEventListener("submit", (event) => event.preventDefault());
    for (const name of ["project", "status", "sort"]) {
      field(name).addEventListener("change", () => change({ [name]: field(name).value, page: 0 }));
    }
    field("page_size").addEventListener("change", () => change({ page_size: Number(field("page_size").value), page: 0 }));
    for (const id of ["clear", "clear-empty"]) {
      byId(id).addEventListener("click", () => {
        change({ search: "", project: "", status: "", page: 0 });
        field("search").focus();
      });
    }
    byId("status").append(...STATUSES.map((status) => el("option", { value: status }, statusWord(status))));
    this.#makeHeaders();
  }

  #makeHeaders() {
    const cells = COLUMNS.map(({ key, label, sort, number }) => {
      const inside = sort
        ? el("button", { type: "button", onclick: () => this.change({ sort: turnSort(this.sort, sort), page: 0 }) }, label)
        : el("span", {}, label);
      return el("th", { role: "columnheader", scope: "col", class: number ? `${key} number` : key, "data-sort": sort }, inside);
    });
    byId("headers").replaceChildren(...cells);
  }

  /** Show the query in the controls; what a person is typing is left alone. */
  showQuery(query) {
    this.sort = query.sort;
    if (document.activeElement !== field("search")) field("search").value = query.search;
    for (const name of ["project", "status", "page_size"]) this.#select(field(name), String(query[name]));
    this.#showSort();
    byId("clear").hidden = !isFiltered(query);
    for (const cell of byId("headers").children) {
      const key = cell.getAttribute("data-sort");
      if (!key) continue;
      const order = query.sort === key ? "ascending" : query.sort === `-${key}` ? "descending" : "none";
      setAttribute(cell, "aria-sort", order);
    }
  }

  /** A value from the address that is not in the list (an unknown project) is still shown as chosen. */
  #select(select, value) {
    if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, value));
    select.value = value;
  }

  #showSort() {
    const fields = [
      ["-started", "Newest first"], ["started", "Oldest first"], ["-last_update", "Last updated"], ["name", "Name, A to Z"],
      ["-name", "Name, Z to A"], ["project", "Project"], ["-project", "Project, Z to A"], ["status", "Status"],
      ["-status", "Status, Z to A"], ["-progress", "Progress, high to low"], ["progress", "Progress, low to high"],
    ];
    const metrics = [...this.metrics].flatMap(([key, label]) => [[`-last:${key}`, `${label}, high to low`], [`last:${key}`, `${label}, low to high`]]);
    const select = field("sort");
    const wanted = [...fields, ...metrics].map(([value]) => value).join("\n");
    if (select.dataset.options !== wanted) {
      const options = (pairs) => pairs.map(([value, label]) => el("option", { value }, label));
      select.replaceChildren(...options(fields));
      if (metrics.length) select.append(el("optgroup", { label: "Last value of" }, ...options(metrics)));
      select.dataset.options = wanted;
    }
    const metric = /^-?last:(.*)$/.exec(this.sort)?.[1];
    if (metric && !this.metrics.has(metric)) select.append(el("option", { value: this.sort }, `${metric}${this.sort[0] === "-" ? ", high to low" : ", low to high"}`));
    this.#select(select, this.sort);
  }

  /** Offer to sort by the scalars seen in these tasks. */
  offerMetrics(tasks) {
    for (const { title, series } of tasks.flatMap((task) => task.last_scalars ?? [])) {
      // A list of hundreds helps nobody; the address takes any `sort=-last:title/series`.
      if (this.metrics.size < 30) this.metrics.set(`${title}/${series}`, seriesLabel(title, series));
    }
    this.#showSort();
  }

  /** @param {{name: string, tasks: number}[]} projects */
  showProjects(projects) {
    const select = field("project");
    const chosen = select.value;
    const options = projects.map(({ name, tasks }) => el("option", { value: name }, `${name} (${count(tasks)})`));
    select.replaceChildren(el("option", { value: "" }, "All projects"), ...options);
    this.#select(select, chosen);
  }

  /** @param {import("./tasks-query.js").Query} query @param {number} total @param {number} shown */
  showPages(query, total, shown) {
    const first = query.page * query.page_size;
    byId("pager").hidden = total === 0 || (total <= 25 && query.page === 0);
    setText(byId("range"), shown ? `${count(first + 1)}–${count(first + shown)} of ${count(total)}` : `none of ${count(total)}`);
    const previous = /** @type {HTMLButtonElement} */ (byId("previous"));
    const next = /** @type {HTMLButtonElement} */ (byId("next"));
    previous.disabled = query.page === 0;
    next.disabled = first + shown >= total;
    previous.onclick = () => this.#turnTo(Math.min(query.page - 1, Math.max(0, Math.ceil(total / query.page_size) - 1)));
    next.onclick = () => this.#turnTo(query.page + 1);
  }

  #turnTo(page) {
    this.change({ page });
    scrollTo({ top: 0 });
  }
}

/**
 * The keys of the table: "/" searches, j/k and arrows move, Enter opens (it is a link), Escape leaves the search.
 * @param {import("./tasks-rows.js").Rows} rows
 */
export function listenForKeys(rows) {
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = target.matches("input, select, textarea");
    if (event.key === "Escape" && target.id === "search") target.blur();
    else if (event.key === "ArrowDown" && target.id === "search") rows.move(1);
    else if (typing) return;
    else if (event.key === "/") field("search").select();
    else if (event.key === "j" || event.key === "ArrowDown") rows.move(1);
    else if (event.key === "k" || event.key === "ArrowUp") rows.move(-1);
    else return;
    if (event.key !== "Escape") event.preventDefault();
  });
}
