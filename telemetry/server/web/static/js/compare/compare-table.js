/** A table with a column for each task: the first one's name column stays while it scrolls within itself. */

import { el } from "../common/dom.js";

/**
 * @param {import("./compare-page.js").Compared[]} tasks
 * @param {string} label  of the table
 * @param {{title: string, rows: {name: string, cells: (Node | string)[], classes?: string[], differs?: boolean, hint?: string}[]}[]} groups
 */
export function compareTable(tasks, label, groups) {
  const head = el(
    "tr",
    {},
    el("th", { scope: "col", class: "first" }, el("span", { class: "visually-hidden" }, "Name")),
    ...tasks.map((task) => {
      const dot = el("i", { class: "dot", "aria-hidden": "true" });
      dot.style.background = `var(--series-${task.color})`;
      return el(
        "th",
        { scope: "col" },
        el(
          "span",
          { class: "column-head" },
          dot,
          el("a", { href: `/tasks/${task.id}`, title: task.label }, task.label),
        ),
      );
    }),
  );
  const bodies = groups
    .filter(({ rows }) => rows.length)
    .map(({ title, rows }) =>
      el(
        "tbody",
        {},
        ...(title
          ? [
              el(
                "tr",
                { class: "group" },
                el("th", { scope: "rowgroup", colspan: tasks.length + 1 }, el("span", {}, title)),
              ),
            ]
          : []),
        ...rows.map(({ name, cells, classes = [], differs, hint }) =>
          el(
            "tr",
            { class: differs ? "differs" : null },
            el(
              "th",
              { scope: "row", class: "first", title: hint ?? name },
              el(
                "span",
                { class: "mark", "aria-label": differs ? "differs" : null, role: differs ? "img" : null },
                differs ? "≠" : "",
              ),
              name,
            ),
            ...cells.map((cell, index) => el("td", { class: classes[index] || null }, cell)),
          ),
        ),
      ),
    );
  return el(
    "div",
    { class: "compare-box", tabindex: 0, role: "region", "aria-label": label },
    el("table", { class: "compare" }, el("thead", {}, head), ...bodies),
  );
}
