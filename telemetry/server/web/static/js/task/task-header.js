/** The head of a task's page: name, status, progress and the figures that move. */

import { byId, el, setAttribute, setText } from "../common/dom.js";
import * as format from "../common/format.js";
import { STATUS_HINTS, statusTone, statusWord } from "../common/status.js";
import { writeQuery, DEFAULTS } from "../tasks/tasks-query.js";

export class Header {
  constructor() {
    this.task = /** @type {any} */ (null);
    setInterval(() => this.tick(), 1000);
  }

  show(task) {
    this.task = task;
    const name = task.name || task.id;
    setText(byId("name"), name);
    document.title = `${["in_progress", "stalled"].includes(task.status) && task.progress ? `${Math.floor(task.progress)}% · ` : ""}${name} · telemetry`;
    setText(byId("status"), statusWord(task.status));
    setAttribute(byId("status"), "data-tone", statusTone(task.status));
    setAttribute(byId("status"), "title", STATUS_HINTS[task.status] ?? null);
    const crumb = byId("crumb-project");
    crumb.hidden = !task.project;
    setText(crumb, task.project);
    setAttribute(crumb, "href", `/${writeQuery({ ...DEFAULTS, project: task.project ?? "" })}`);
    byId("tags").replaceChildren(
      ...[...(task.tags ?? []), ...(task.more_tags ? ["…"] : [])].map((tag) => el("span", { class: "badge" }, tag)),
      ...((task.system_tags ?? []).includes("archived") ? [el("span", { class: "badge warn" }, "archived")] : []),
    );
    setText(byId("comment"), task.comment);
    byId("comment").hidden = !task.comment;
    this.#showProgress(task);
    setText(byId("iteration"), format.count(task.last_iteration));
    setText(byId("points"), format.count(task.points));
    setText(byId("host"), task.host ?? "–");
    setText(
      byId("reason"),
      ["failed", "stopped", "preempted"].includes(task.status) ? task.status_reason : (STATUS_HINTS[task.status] ?? ""),
    );
    byId("reason").hidden = !byId("reason").textContent;
    byId("started").title = format.exact(task.started_unix_ms);
    this.tick();
  }

  #showProgress({ progress, status }) {
    const known = progress !== null && progress !== undefined;
    byId("progress").hidden = !known;
    if (!known) return;
    const tone = statusTone(status);
    setAttribute(byId("progress"), "data-tone", tone === "running" ? null : tone);
    setAttribute(byId("progress"), "aria-valuenow", Math.round(progress));
    byId("bar").style.width = `${Math.min(100, Math.max(0, progress))}%`;
    setText(byId("percent"), `${Number(progress.toFixed(1))}%`);
  }

  tick() {
    if (!this.task) return;
    const now = Date.now();
    setText(byId("started"), format.relative(this.task.started_unix_ms, now));
    setText(byId("duration"), format.duration(format.taskDuration(this.task, now)));
  }
}
