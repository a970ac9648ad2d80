/** The rows of the task table: made once per task, then patched where something changed. */

import { arrange, el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { STATUS_HINTS, statusTone, statusWord } from "./status.js";

/** Columns in order: key, heading, and the API's sort key where it has one. */
export const COLUMNS = [
  { key: "name", label: "Name", sort: "name" },
  { key: "project", label: "Project", sort: "project" },
  { key: "status-cell", label: "Status", sort: "status" },
  { key: "progress-cell", label: "Progress", sort: "progress" },
  { key: "started", label: "Started", sort: "started" },
  { key: "duration", label: "Duration", number: true },
  { key: "iteration", label: "Iteration", number: true },
  { key: "scalars-cell", label: "Last scalars" },
  { key: "points", label: "Points", number: true },
];

export class Rows {
  /** @param {HTMLElement} body  the tbody */
  constructor(body) {
    this.body = body;
    this.rows = /** @type {Map<string, Row>} */ (new Map());
  }

  /** @param {any[]} tasks  this page's, in order */
  show(tasks) {
    const now = Date.now();
    const rows = tasks.map((task) => {
      const row = this.rows.get(task.id) ?? new Row(task.id);
      row.show(task, now);
      return /** @type {const} */ ([task.id, row]);
    });
    this.rows = new Map(rows);
    arrange(this.body, rows.map(([, row]) => row.element));
  }

  /** Let relative times and durations of running tasks go on. */
  tick() {
    const now = Date.now();
    for (const row of this.rows.values()) row.tick(now);
  }

  /** Move the focus by `step` rows; from outside the table to its first row. */
  move(step) {
    const links = [...this.rows.values()].map((row) => row.link);
    const at = links.indexOf(/** @type {any} */ (document.activeElement));
    const next = links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + step))];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "nearest" });
  }
}

class Row {
  /** @param {string} id */
  constructor(id) {
    this.task = /** @type {any} */ (null);
    this.link = el("a", { href: `/tasks/${id}` });
    this.reason = el("span", { class: "reason", hidden: true });
    this.status = el("span", { class: "status" });
    this.bar = el("div", { class: "progress-bar" });
    this.percent = el("span", { class: "progress-text" });
    this.progress = el("div", { class: "progress" }, el("div", { class: "progress-track" }, this.bar), this.percent);
    this.scalars = el("div", { class: "scalars" });
    const content = {
      name: [this.link, this.reason],
      "status-cell": [this.status],
      "scalars-cell": [this.scalars],
    };
    this.cells = /** @type {Record<string, HTMLElement>} */ ({});
    const cells = COLUMNS.map(({ key, label, number }) => {
      const kind = number ? `${key} number` : key;
      this.cells[key] = el("td", { role: "cell", class: kind, "data-label": label }, ...(content[key] ?? []));
      return this.cells[key];
    });
    this.element = el("tr", { role: "row", "data-id": id, onclick: (event) => this.#open(event) }, ...cells);
  }

  show(task, now) {
    this.task = task;
    const tone = statusTone(task.status);
    setText(this.link, task.name || task.id);
    this.link.title = task.name || task.id;
    setText(this.reason, task.status === "failed" ? task.status_reason : "");
    this.reason.hidden = !this.reason.textContent;
    this.reason.title = this.reason.textContent ?? "";
    setText(this.cells.project, task.project);
    this.cells.project.title = task.project ?? "";
    setText(this.status, statusWord(task.status));
    setAttribute(this.status, "data-tone", tone);
    setAttribute(this.status, "title", STATUS_HINTS[task.status] ?? null);
    this.#showProgress(task.progress, tone);
    setText(this.cells.iteration, format.count(task.last_iteration));
    setText(this.cells.points, format.shortCount(task.points));
    this.cells.points.title = format.count(task.points);
    this.cells.started.title = format.exact(task.started_unix_ms);
    showScalars(this.scalars, task.last_scalars ?? []);
    this.tick(now);
  }

  tick(now) {
    setText(this.cells.started, format.relative(this.task.started_unix_ms, now));
    setText(this.cells.duration, format.duration(format.taskDuration(this.task, now)));
  }

  #showProgress(progress, tone) {
    if (progress === null || progress === undefined) {
      this.progress.remove();
      return;
    }
    if (!this.progress.isConnected) this.cells["progress-cell"].append(this.progress);
    setAttribute(this.progress, "data-tone", tone === "running" ? null : tone);
    this.bar.style.width = `${Math.min(100, Math.max(0, progress))}%`;
    setText(this.percent, `${Math.floor(progress)}%`);
  }

  /** The whole row opens the task, but selecting text in it does not, and links do so themselves. */
  #open(event) {
    if (event.target.closest("a") || getSelection()?.toString()) return;
    if (event.ctrlKey || event.metaKey) open(this.link.getAttribute("href") ?? "", "_blank", "noopener");
    else this.link.click();
  }
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
  const all = scalars.map((scalar) => `${seriesLabel(scalar.title, scalar.series)} = ${scalar.value} at iteration ${format.count(scalar.iteration)}`);
  setAttribute(parent, "title", all.join("\n"));
}

/** "loss / train", but "loss" where the series only repeats its title. */
export const seriesLabel = (title, series) => (series && series !== title ? `${title} / ${series}` : title);
