/** Configurations side by side: a row for each parameter, with what differs from the first task marked. */

import { compareTable } from "./compare-table.js";
import { putAddress } from "./compare-scalars.js";
import { byId, debounce, el, setText } from "../common/dom.js";
import { count, duration, exact, taskDuration } from "../common/format.js";
import { statusWord } from "../common/status.js";
import { entryOf, valueText } from "../common/typed.js";

const SEARCH_DELAY_MS = 120;
// Of any two runs these differ: they are shown, and not counted as a difference.
const INCIDENTAL = new Set(["started", "duration"]);
const NONE = "\u0000"; // is not there, as opposed to any text

export class Comparison {
  /** @param {import("./compare-page.js").Compared[]} tasks */
  constructor(tasks) {
    this.tasks = tasks;
    this.onlyDifferences = new URLSearchParams(location.search).get("differences") === "1";
    this.drawn = "";
    const field = /** @type {HTMLInputElement} */ (byId("difference-search"));
    field.addEventListener(
      "input",
      debounce(() => this.#draw(), SEARCH_DELAY_MS),
    );
    byId("only-differences").addEventListener("click", () => {
      this.onlyDifferences = !this.onlyDifferences;
      putAddress({ differences: this.onlyDifferences ? "1" : "" });
      this.#draw();
    });
  }

  /** The tasks were fetched again. */
  refresh() {
    // Scrolled and selected things stay while nothing changed.
    const state = JSON.stringify(
      this.tasks.map(({ id, record, status }) => [
        id,
        { ...record, heartbeats: null, writers: null, task: { ...record.task, ledger: null } },
        status,
      ]),
    );
    if (state !== this.drawn) this.#draw();
    this.drawn = state;
  }

  #draw() {
    byId("only-differences").setAttribute("aria-pressed", String(this.onlyDifferences));
    const words = /** @type {HTMLInputElement} */ (byId("difference-search")).value
      .toLowerCase()
      .split(/\s+/)
      .filter(Boolean);
    let differing = 0;
    let all = 0;
    const groups = this.#groups().map(({ title, rows }) => ({
      title,
      rows: rows.flatMap(([name, texts]) => {
        const differs = new Set(texts).size > 1 && !(title === "Task" && INCIDENTAL.has(name));
        all += 1;
        differing += Number(differs);
        const whole = `${title}/${name} ${texts.join(" ")}`.toLowerCase();
        if ((this.onlyDifferences && !differs) || !words.every((word) => whole.includes(word))) return [];
        return [
          {
            name,
            differs,
            cells: texts.map((text) => cellOf(text, texts[0])),
            classes: texts.map((text) => (differs && text !== texts[0] ? "other" : "")),
          },
        ];
      }),
    }));
    const shown = groups.reduce((sum, { rows }) => sum + rows.length, 0);
    byId("differences").replaceChildren(
      ...(shown ? [compareTable(this.tasks, "Configurations side by side", groups)] : []),
    );
    setText(byId("difference-count"), `${count(differing)} of ${count(all)} differ`);
    byId("no-differences").hidden = shown > 0;
    setText(
      byId("no-differences"),
      words.length
        ? "Nothing here has these words."
        : this.onlyDifferences
          ? "Nothing differs."
          : "There is nothing to compare.",
    );
  }

  /** @returns {{title: string, rows: [string, string[]][]}[]} for each row a text for each task */
  #groups() {
    const own = (section) => this.tasks.map(({ record }) => record[section] ?? {});
    const groups = [{ title: "Task", rows: this.#taskRows() }];
    const parameters = own("parameters");
    for (const section of sectionsOf(parameters)) {
      const prefix = section ? `${section}/` : "";
      const keys = keysOf(parameters).filter((key) => (section ? key.startsWith(prefix) : !key.includes("/")));
      groups.push({
        title: section || "Parameters",
        rows: rowsOf(keys, parameters, typedText, (key) => key.slice(prefix.length)),
      });
    }
    const add = (title, section, textOf) =>
      groups.push({ title, rows: rowsOf(keysOf(own(section)), own(section), textOf) });
    add("User properties", "properties", typedText);
    add("Configuration objects", "configuration", (kept) =>
      typeof kept === "string" ? kept : (kept?.text ?? valueText(kept, 2)),
    );
    add("Labels", "labels", (kept) => valueText(kept));
    add("Script", "script", (kept) => valueText(kept, 2));
    add("Container", "container", (kept) => valueText(kept, 2));
    return groups;
  }

  #taskRows() {
    const row = (name, textOf) =>
      /** @type {[string, string[]]} */ ([name, this.tasks.map(({ task }) => textOf(task) || NONE)]);
    return [
      row("status", (task) => statusWord(task.status)),
      row("project", (task) => task.project),
      row("type", (task) => task.type),
      row("tags", (task) => (task.tags ?? []).join(", ")),
      row("started", (task) => exact(Number(task.started_unix_ms))),
      row("duration", (task) => duration(taskDuration(task, Date.now()))),
      row("host", (task) => task.host),
      row("comment", (task) => task.comment),
    ];
  }
}

/** The type belongs to the value: 1 and "1" are two things. */
function typedText(kept) {
  const { value, type } = entryOf(kept);
  const text = valueText(value);
  const isText = typeof value === "string" && !["int", "float", "bool"].includes(type);
  return isText && looksTyped(text) ? `"${text}"` : text;
}

const looksTyped = (text) => /^(None|True|False|[-+]?[\d.]+(e[-+]?\d+)?)$/i.test(text);

const inOrder = (names) => [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
const keysOf = (sections) => inOrder(new Set(sections.flatMap((section) => Object.keys(section))));
const sectionsOf = (sections) =>
  inOrder(new Set(keysOf(sections).map((key) => (key.includes("/") ? key.slice(0, key.indexOf("/")) : ""))));

function rowsOf(keys, sections, textOf, nameOf = (key) => key) {
  return keys.map(
    (key) =>
      /** @type {[string, string[]]} */ ([
        nameOf(key),
        sections.map((section) => (key in section ? textOf(section[key]) : NONE)),
      ]),
  );
}

/** A cell; of a longer text the lines that the first task has not are marked. */
function cellOf(text, first) {
  if (text === NONE) return el("span", { class: "muted" }, "–");
  if (text === "") return el("span", { class: "muted" }, "(empty)");
  if (!text.includes("\n")) return text;
  const known = new Set(first === NONE ? [] : first.split("\n"));
  const lines = text.replace(/\n$/, "").split("\n");
  return el(
    "pre",
    { tabindex: 0 },
    ...lines.map((line) =>
      el(
        "span",
        { class: text !== first && first !== NONE && !known.has(line) ? "line-differs" : "line-same" },
        line || " ",
      ),
    ),
  );
}
