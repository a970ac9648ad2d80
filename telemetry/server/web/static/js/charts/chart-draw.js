/** Drawing, one chart per frame: a page full of charts that all moved must not stop the page. */

import { plotly } from "./plotly.js";
import { color } from "../common/theme.js";

const waiting = /** @type {Map<HTMLElement, (P: any) => void>} */ (new Map());
let scheduled = false;

/**
 * Draw soon. A later drawing for the same element replaces an earlier one that is still waiting.
 * @param {HTMLElement} element
 * @param {(Plotly: any) => void} draw
 */
export function drawSoon(element, draw) {
  waiting.set(element, draw);
  schedule();
}

/** Forget what is waiting for an element and give Plotly's memory for it back. */
export async function erase(element) {
  waiting.delete(element);
  if (element.classList.contains("js-plotly-plot")) (await plotly()).purge(element);
}

function schedule() {
  if (scheduled || !waiting.size) return;
  scheduled = true;
  requestAnimationFrame(async () => {
    try {
      const Plotly = await plotly();
      const next = waiting.entries().next().value;
      if (next) {
        waiting.delete(next[0]);
        next[1](Plotly);
      }
    } finally {
      scheduled = false;
      schedule();
    }
  });
}

let theme = /** @type {Record<string, string> | null} */ (null);
document.addEventListener("themechange", () => {
  theme = null;
});

/** The colours and fonts of the style sheet as charts need them; read once per theme. */
export function chartTheme() {
  theme ??= {
    text: color("--text"),
    text2: color("--text-2"),
    line: color("--line"),
    lineStrong: color("--line-strong"),
    surface: color("--surface"),
    surface2: color("--surface-2"),
    bad: color("--bad"),
    sans: getComputedStyle(document.documentElement).getPropertyValue("--sans"),
    ...Object.fromEntries(Array.from({ length: 10 }, (_, index) => [`series${index}`, color(`--series-${index}`)])),
  };
  return theme;
}
