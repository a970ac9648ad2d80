/** Console lines as elements. */

import { parse } from "./ansi.js";
import { el } from "./dom.js";
import { clockTime, exact } from "./format.js";

/** @param {number | null | undefined} level  of Python's logging */
function levelClass(level) {
  if (level === null || level === undefined) return "";
  if (level >= 40) return " level-error";
  if (level >= 30) return " level-warning";
  return level >= 20 ? " level-info" : " level-debug";
}

/**
 * @param {{id: number, unix_ms: number, stream: string, level: number | null, rank: number | null, text: string}} line
 * @param {string} search  marked where it occurs
 */
export function lineElement(line, search) {
  const text = el("span", { class: "text" });
  for (const run of parse(line.text)) {
    const nodes = mark(run.text, search);
    if (run.classes) text.append(el("span", { class: run.classes }, ...nodes));
    else text.append(...nodes);
  }
  return el(
    "div", { class: `line ${["stdout", "stderr", "log", "report"].includes(line.stream) ? line.stream : "other"}${levelClass(line.level)}`, "data-id": line.id },
    el("time", { title: `${exact(line.unix_ms)}, ${line.stream}` }, clockTime(line.unix_ms)),
    line.rank === null ? "" : el("span", { class: "rank", title: `rank ${line.rank}` }, String(line.rank)), text,
  );
}

/** @returns {(string | HTMLElement)[]} */
function mark(text, search) {
  if (!search) return [text];
  const low = text.toLowerCase();
  const wanted = search.toLowerCase();
  const out = [];
  let at = 0;
  for (let hit = low.indexOf(wanted); hit >= 0; hit = low.indexOf(wanted, at)) {
    out.push(text.slice(at, hit), el("mark", {}, text.slice(hit, hit + wanted.length)));
    at = hit + wanted.length;
  }
  out.push(text.slice(at));
  return out.filter((part) => part !== "");
}
