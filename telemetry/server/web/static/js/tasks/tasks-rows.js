/** The rows of the task table: made once per task, then patched where something changed. */

import { arrange, el, setAttribute, setText } from "../common/dom.js";
import * as format from "../common/format.js";
import { STATUS_HINTS, statusTone, statusWord } from "../common/status.js";
import { valueText } from "../common/typed.js";

/** @typedef {{has: (id: string) => boolean, set: (tasks: any[], on: boolean) => void}} Chosen */

export class Rows {
  /**
   * @param {HTMLElement} body  the tbody
   * @param {Chosen} chosen
   */
  constructor(body, chosen) {
    this.body = body;
    this.chosen = chosen;
    this.columns = /** @type {any[]} */ ([]);
    this.rows = /** @type {Map<string, Row>} */ (new Map());
    this.last = ""; // the row that was chosen last: Shift chooses from there
  }

  /**
   * @param {any[]} tasks  this page's, in order
   * @param {any[]} columns  tasks-columns.js
   */
  show(tasks, columns) {
    const now = Date.now();
    if (JSON.stringify(columns) !== JSON.stringify(this.columns)) this.rows.clear();
    this.columns = columns;
    const rows = tasks.map((task) => {
      const row = this.rows.get(task.id) ?? new Row(task.id, columns, (event) => this.#choose(task.id, event));
      row.show(task, now);
      return /** @type {const} */ ([task.id, row]);
    });
    this.rows = new Map(rows);
    arrange(
      this.body,
      rows.map(([, row]) => row.element),
    );
    this.showChosen();
  }

  showChosen() {
    for (const [id, row] of this.rows) row.setChosen(this.chosen.has(id));
  }

  /** @returns {any[]} the tasks of this page */
  get tasks() {
    return [...this.rows.values()].map(({ task }) => task);
  }

  /** Let relative times and durations of running tasks go on. */
  tick() {
    const now = Date.now();
    for (const row of this.rows.values()) row.tick(now);
  }

  /** Move the focus by `step` rows; from outside the table to its first row. With `choose`, take the rows along. */
  move(step, choose = false) {
    const rows = [...this.rows.values()];
    const at = this.#focused();
    const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))];
    if (choose && at >= 0) this.chosen.set([rows[at].task, next.task], true);
    if (choose && next) this.last = next.task.id;
    next?.link.focus({ preventScroll: true });
    next?.link.scrollIntoView({ block: "nearest" });
  }

  /** Choose the row that has the focus, or let it go. @returns {boolean} whether there is one */
  toggle() {
    const row = [...this.rows.values()][this.#focused()];
    if (row) this.#choose(row.task.id, { shiftKey: false });
    return Boolean(row);
  }

  #focused() {
    return [...this.rows.values()].findIndex(({ element }) => element.contains(document.activeElement));
  }

  /** With Shift: everything from the one that was chosen last up to this one. */
  #choose(id, event) {
    const ids = [...this.rows.keys()];
    const on = !this.chosen.has(id);
    const [from, to] = [ids.indexOf(this.last), ids.indexOf(id)];
    const span = event.shiftKey && from >= 0 ? ids.slice(Math.min(from, to), Math.max(from, to) + 1) : [id];
    this.chosen.set(
      span.map((one) => /** @type {Row} */ (this.rows.get(one)).task),
      on,
    );
    this.last = id;
  }
}

class Row {
  /**
   * @param {string} id
   * @param {any[]} columns
   * @param {(event: {shiftKey: boolean}) => void} onChoose
   */
  constructor(id, columns, onChoose) {
    this.task = /** @type {any} */ (null);
    this.link = el("a", { href: `/tasks/${id}` });
    this.reason = el("span", { class: "reason", hidden: true });
    this.status = el("span", { class: "status" });
    this.bar = el("div", { class: "progress-bar" });
    this.percent = el("span", { class: "progress-text" });
    this.progress = el("div", { class: "progress" }, el("div", { class: "progress-track" }, this.bar), this.percent);
    this.scalars = el("div", { class: "scalars" });
    this.tags = el("div", { class: "row-tags" });
    this.box = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox" }));
    this.box.addEventListener("click", (event) => {
      // The choice itself says what the box shows; Shift+click must not select text.
      event.stopPropagation();
      onChoose(event);
    });
    this.chosenCells = /** @type {{cell: HTMLElement, column: string}[]} */ ([]);
    const content = {
      name: [this.link, this.reason],
      "status-cell": [this.status],
      "scalars-cell": [this.scalars],
      "tags-cell": [this.tags],
    };
    this.cells = /** @type {Record<string, HTMLElement>} */ ({});
    const select = el(
      "td",
      { role: "cell", class: "select-cell", onclick: (event) => event.target === select && onChoose(event) },
      this.box,
    );
    const cells = columns.map(({ key, label, number, column }) => {
      const kind = number ? `${key} number` : key;
      if (column) {
        const cell = el("td", { role: "cell", class: kind, "data-label": label, "data-column": column });
        this.chosenCells.push({ cell, column });
        return cell;
      }
      this.cells[key] = el("td", { role: "cell", class: kind, "data-label": label }, ...(content[key] ?? []));
      return this.cells[key];
    });
    this.element = el("tr", { role: "row", "data-id": id, onclick: (event) => this.#open(event) }, select, ...cells);
  }

  setChosen(on) {
    this.box.checked = on;
    this.element.classList.toggle("chosen-row", on);
  }

  show(task, now) {
    this.task = task;
    const tone = statusTone(task.status);
    setText(this.link, task.name || task.id);
    this.link.title = task.name || task.id;
    setText(this.reason, task.status === "failed" ? task.status_reason : "");
    this.reason.hidden = !this.reason.textContent;
    this.reason.title = this.reason.textContent ?? "";
    setAttribute(this.box, "aria-label", `Select ${task.name || task.id}`);
    this.#set("project", task.project, task.project);
    setText(this.status, statusWord(task.status));
    setAttribute(this.status, "data-tone", tone);
    setAttribute(this.status, "title", STATUS_HINTS[task.status] ?? null);
    this.#showProgress(task.progress, tone);
    this.#set("iteration", format.count(task.last_iteration));
    this.#set("points", format.shortCount(task.points), format.count(task.points));
    if (this.cells.started) this.cells.started.title = format.exact(task.started_unix_ms);
    showScalars(this.scalars, task.last_scalars ?? []);
    showTags(this.tags, task);
    for (const { cell, column } of this.chosenCells) showChosen(cell, task.columns?.[column]);
    this.tick(now);
  }

  /** A column may be hidden. */
  #set(key, text, title) {
    const cell = this.cells[key];
    if (!cell) return;
    setText(cell, text);
    if (title !== undefined) cell.title = title ?? "";
  }

  tick(now) {
    this.#set("started", format.relative(this.task.started_unix_ms, now));
    this.#set("duration", format.duration(format.taskDuration(this.task, now)));
  }

  #showProgress(progress, tone) {
    if (progress === null || progress === undefined) {
      this.progress.remove();
      return;
    }
    if (!this.progress.parentElement) this.cells["progress-cell"]?.append(this.progress);
    setAttribute(this.progress, "data-tone", tone === "running" ? null : tone);
    this.bar.style.width = `${Math.min(100, Math.max(0, progress))}%`;
    setText(this.percent, `${Math.floor(progress)}%`);
  }

  /** The whole row opens the task, but selecting text in it does not, and links do so themselves. */
  #open(event) {
    if (event.target.closest("a, input, .select-cell") || getSelection()?.toString()) return;
    if (event.ctrlKey || event.metaKey) open(this.link.getAttribute("href") ?? "", "_blank", "noopener");
    else this.link.click();
  }
}

function showTags(parent, task) {
  const tags = [
    ...(task.tags ?? []),
    ...(task.more_tags ? ["…"] : []),
    ...((task.system_tags ?? []).includes("archived") ? ["archived"] : []),
  ];
  if (parent.dataset.tags === tags.join("\n")) return;
  parent.dataset.tags = tags.join("\n");
  parent.title = tags.join(", ");
  parent.replaceChildren(...tags.map((tag) => el("span", { class: "badge" }, tag)));
}

/** A chosen column: numbers as measured, everything else as its text. */
function showChosen(cell, value) {
  const none = value === null || value === undefined;
  const text = none
    ? "–"
    : typeof value === "number" || format.isNonFinite(value)
      ? format.measure(value)
      : valueText(value);
  setText(cell, text);
  cell.title = none ? "" : valueText(value);
  cell.classList.toggle("none", none);
}

/** @param {HTMLElement} parent @param {any[]} scalars */
function showScalars(parent, scalars) {
  while (parent.children.length > scalars.length) parent.lastElementChild?.remove();
  scalars.forEach((scalar, index) => {
    let item = parent.children[index];
    if (!item) {
      item = el("span", {}, el("span", { class: "label" }), el("span", { class: "value" }));
      parent.append(item);
    }
    const [label, value] = item.children;
    setText(label, seriesLabel(scalar.title, scalar.series));
    setText(value, format.measure(scalar.value));
    value.classList.toggle("bad", format.isNonFinite(scalar.value));
  });
  // All of them at once: the last ones may be cut off by the column's edge.
  const all = scalars.map(
    (scalar) =>
      `${seriesLabel(scalar.title, scalar.series)} = ${scalar.value} at iteration ${format.count(scalar.iteration)}`,
  );
  setAttribute(parent, "title", all.join("\n"));
}

/** "loss / train", but "loss" where the series only repeats its title. */
export const seriesLabel = (title, series) => (series && series !== title ? `${title} / ${series}` : title);
