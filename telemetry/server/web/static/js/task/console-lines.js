/** Console lines as elements. */

import { parse } from "./ansi.js";
import { el } from "../common/dom.js";
import { clockTime, exact } from "../common/format.js";

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
  const text = el("span", { class: "text" }, ...coloured(parse(line.text), search));
  return el(
    "div",
    {
      class: `line ${["stdout", "stderr", "log", "report"].includes(line.stream) ? line.stream : "other"}${levelClass(line.level)}`,
      "data-id": line.id,
    },
    el("time", { title: `${exact(line.unix_ms)}, ${line.stream}` }, clockTime(line.unix_ms)),
    line.rank === null ? "" : el("span", { class: "rank", title: `rank ${line.rank}` }, String(line.rank)),
    text,
  );
}

/**
 * @param {import("./ansi.js").Run[]} runs
 * @returns {(string | HTMLElement)[]}
 */
function coloured(runs, search) {
  const hits = hitsIn(runs.map(({ text }) => text).join(""), search);
  const out = [];
  let start = 0;
  for (const { text, classes, color, back } of runs) {
    const nodes = marked(text, start, hits);
    start += text.length;
    if (!classes && !color && !back) {
      out.push(...nodes);
      continue;
    }
    const span = el("span", { class: classes || false }, ...nodes);
    // Through the style's own interface, which the content security policy allows; an attribute it does not.
    if (color) span.style.color = color;
    if (back) span.style.backgroundColor = back;
    out.push(span);
  }
  return out;
}

/** @returns {[number, number][]} where the search occurs in the visible text, whatever its colours */
function hitsIn(text, search) {
  const hits = /** @type {[number, number][]} */ ([]);
  if (!search) return hits;
  const low = text.toLowerCase();
  const wanted = search.toLowerCase();
  for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, at + wanted.length))
    hits.push([at, at + wanted.length]);
  return hits;
}

/** @returns {(string | HTMLElement)[]} a run's text, which begins at `start` of the line, with what of the hits lies in it */
function marked(text, start, hits) {
  const out = [];
  let at = 0;
  for (const [from, to] of hits) {
    const [left, right] = [Math.max(from - start, at), Math.min(to - start, text.length)];
    if (left >= right) continue;
    out.push(text.slice(at, left), el("mark", {}, text.slice(left, right)));
    at = right;
  }
  out.push(text.slice(at));
  return out.filter((part) => part !== "");
}
