/** The Info tab: everything the task's record says, its processes and the delivery ledger. */

import { byId, copyText, el, icon } from "../common/dom.js";
import * as format from "../common/format.js";
import { statusWord } from "../common/status.js";

// Shown in a place of their own, not in the list of fields.
const OWN_PLACE = new Set([
  "ledger",
  "status_message",
  "status_reason",
  "name",
  "project",
  "status",
  "progress",
  "tags",
  "system_tags",
  "started_unix_ns",
  "ended_unix_ns",
  "type",
]);
// Sections with a tab of their own, and what is for the server only.
const ELSEWHERE = new Set([
  "task",
  "writers",
  "heartbeats",
  "parameters",
  "configuration",
  "properties",
  "labels",
  "script",
  "container",
  "artifacts",
  "input_models",
  "output_models",
]);
const LABELS = { cwd: "Folder", command: "Command", python: "Python", host: "Host", comment: "Comment" };

export class Info {
  constructor() {
    this.task = /** @type {any} */ (null);
    this.drawn = "";
  }

  /** Nothing of its own to fetch: it shows the task as the page has it. */
  refresh() {}

  show(task) {
    this.task = task;
    this.#draw();
  }

  /** Draw, unless nothing changed: a selection or an open focus must survive the live feed. */
  #draw() {
    if (!this.task) return;
    const state = JSON.stringify([this.task.record, this.task.counts, this.task.status, this.task.ended_unix_ms]);
    if (state === this.drawn) return;
    this.drawn = state;
    const { record } = this.task;
    const own = record.task ?? {};
    const rest = Object.entries(record).filter(([name]) => !ELSEWHERE.has(name));
    const fields = ([name, values]) =>
      section(
        sentence(name),
        definitions(
          Object.entries(values)
            .sort(byKey)
            .map(([key, value]) => [key, text(value)]),
        ),
      );
    byId("info").replaceChildren(
      ...[
        failure(this.task, own),
        el("div", { class: "column" }, taskSection(this.task, own)),
        el("div", { class: "column" }, ledgerSection(own.ledger), ...rest.sort(byKey).map(fields)),
        writersSection(record.writers ?? {}),
      ].filter((node) => node !== null),
    );
  }
}

const byKey = (/** @type {[string, any]} */ [a], /** @type {[string, any]} */ [b]) =>
  a.localeCompare(b, "en", { numeric: true });
const sentence = (name) => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** A recorded value as a person would type it. */
function text(value) {
  if (typeof value === "string") return value;
  if (value === null || value === undefined) return "–";
  if (typeof value === "object") return el("pre", {}, JSON.stringify(value, null, 2));
  return String(value);
}

/** A command line that can be pasted: parts with spaces are quoted. */
const commandLine = (parts) =>
  parts.map((part) => (/^[\w./:=@%+,-]+$/.test(part) ? part : `'${String(part).replaceAll("'", "'\\''")}'`)).join(" ");

function section(title, ...content) {
  return el("section", { class: "panel", "aria-label": title }, el("h2", {}, title), ...content);
}

function copyButton(what, value) {
  const button = el("button", {
    type: "button",
    class: "icon-button",
    "aria-label": `Copy ${what}`,
    title: `Copy ${what}`,
  });
  button.append(icon("copy"));
  button.addEventListener("click", () => copyText(button, value));
  return button;
}

/** @param {[string, (string | Node)][]} pairs */
function definitions(pairs) {
  return el(
    "dl",
    { class: "definitions" },
    ...pairs.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]),
  );
}

function failure(task, own) {
  if (task.status !== "failed" && !own.status_message) return null;
  const trace = own.status_message;
  return el(
    "section",
    { class: "panel failure", "aria-label": "Failure" },
    el("h2", {}, task.status_reason || own.status_reason || "The task failed"),
    trace
      ? el(
          "figure",
          { class: "snippet" },
          el("pre", { class: "traceback", tabindex: 0 }, trace),
          copyButton("traceback", trace),
        )
      : null,
  );
}

function taskSection(task, own) {
  const value = (key) => {
    if (key !== "command" || !Array.isArray(own.command)) return text(own[key]);
    const line = commandLine(own.command);
    return el("span", { class: "copyable" }, el("code", {}, line), copyButton("command", line));
  };
  const started = task.started_unix_ms ?? task.created_unix_ms;
  return section(
    "Task",
    definitions([
      ["Id", el("span", { class: "copyable" }, el("code", {}, task.id), copyButton("id", task.id))],
      ["Project", task.project || "–"],
      ["Type", task.type || "–"],
      [
        "Status",
        statusWord(task.status) + (task.status_reason && task.status !== "failed" ? `: ${task.status_reason}` : ""),
      ],
      ["Started", format.exact(started) || "–"],
      ...(task.ended_unix_ms ? [/** @type {[string, string]} */ (["Ended", format.exact(task.ended_unix_ms)])] : []),
      ["Duration", format.duration(format.taskDuration(task, Date.now()))],
      ...(task.tags?.length ? [/** @type {[string, string]} */ (["Tags", task.tags.join(", ")])] : []),
      ...Object.keys(own)
        .filter((key) => !OWN_PLACE.has(key))
        .sort()
        .map((key) => /** @type {[string, any]} */ ([LABELS[key] ?? sentence(key), value(key)])),
      ["Points", format.count(task.counts?.points)],
      ["Console lines", format.count(task.counts?.console_lines)],
      ["Frames", format.count(task.counts?.frames)],
    ]),
  );
}

/** logged = delivered + on disk + in memory + dropped, by reason; as the task itself counted last. */
function ledgerSection(ledger) {
  if (!ledger) return null;
  const dropped = Object.entries(ledger.dropped ?? {});
  const lost = dropped.reduce((sum, [, number]) => sum + number, 0);
  const term = (label, number, sign, bad = false) =>
    el(
      "div",
      { class: bad ? "term bad" : "term" },
      el("span", { class: "sign", "aria-hidden": "true" }, sign),
      el("b", {}, format.count(number)),
      el("span", {}, label),
    );
  return section(
    "Delivery",
    el(
      "div",
      { class: "ledger" },
      term("logged", ledger.logged, ""),
      term("delivered", ledger.delivered, "="),
      term("on disk", ledger.on_disk, "+"),
      term("in memory", ledger.in_memory, "+"),
      term("dropped", lost, "+", lost > 0),
    ),
    lost
      ? definitions(dropped.map(([reason, number]) => [`Dropped: ${reason}`, format.count(number)]))
      : el("p", { class: "muted" }, "Events, as the task itself counted when it last said so. Nothing was dropped."),
  );
}

function table(headings, rows) {
  const head = el(
    "tr",
    {},
    ...headings.map(([label, number]) => el("th", { scope: "col", class: number ? "number" : null }, label)),
  );
  const body = rows.map((cells) =>
    el(
      "tr",
      {},
      ...cells.map((cell, index) =>
        el("td", { class: headings[index][1] ? "number" : null, "data-label": headings[index][0] }, cell),
      ),
    ),
  );
  return el(
    "div",
    { class: "table-box", tabindex: 0 },
    el("table", { class: "plain" }, el("thead", {}, head), el("tbody", {}, ...body)),
  );
}

function writersSection(writers) {
  const entries = Object.entries(writers);
  if (!entries.length) return null;
  entries.sort(
    ([, a], [, b]) =>
      (a?.attempt ?? 1) - (b?.attempt ?? 1) ||
      (a?.rank ?? 0) - (b?.rank ?? 0) ||
      (a?.started_unix_ns ?? 0) - (b?.started_unix_ns ?? 0),
  );
  const attempts = new Set(entries.map(([, writer]) => writer?.attempt ?? 1));
  const many = attempts.size > 1 || !attempts.has(1);
  const moment = (ns) => (ns ? format.exact(ns / 1e6) : "") || "–";
  const rows = entries.map(([id, writer]) => [
    writer?.world_size > 1 ? `${writer.rank ?? 0} of ${writer.world_size}` : String(writer?.rank ?? 0),
    ...(many ? [String(writer?.attempt ?? 1) + (writer?.restarts ? `, restart ${writer.restarts}` : "")] : []),
    writer?.host ?? "–",
    String(writer?.pid ?? "–") + (writer?.parent_pid ? ` of ${writer.parent_pid}` : ""),
    writer?.python ?? "–",
    moment(writer?.started_unix_ns),
    moment(writer?.ended_unix_ns),
    el("code", { title: id }, id.slice(0, 8)),
  ]);
  const title = many ? `Processes of ${attempts.size} attempts` : "Processes";
  return section(
    title,
    table(
      [
        ["Rank"],
        ...(many ? [["Attempt", true]] : []),
        ["Host"],
        ["Process id", true],
        ["Python"],
        ["Started"],
        ["Ended"],
        ["Writer"],
      ],
      rows,
    ),
  );
}
