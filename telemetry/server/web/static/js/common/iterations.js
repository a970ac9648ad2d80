/** A slider over the iterations of a plot or an image; with one iteration it only says which. */

import { el, iconButton, setText } from "./dom.js";
import { count } from "./format.js";

export class IterationPicker {
  /**
   * @param {number[]} iterations  in order
   * @param {() => void} onChange
   * @param {number} [at]  the one to begin with, else the last
   */
  constructor(iterations, onChange, at) {
    this.iterations = iterations;
    this.onChange = onChange;
    const index = at === undefined ? -1 : iterations.indexOf(at);
    this.index = index < 0 ? iterations.length - 1 : index;
    this.range = /** @type {HTMLInputElement} */ (
      el("input", { type: "range", min: 0, step: 1, "aria-label": "Iteration" })
    );
    this.range.addEventListener("input", () => this.#go(Number(this.range.value)));
    this.back = iconButton("previous", "Previous iteration", () => this.step(-1));
    this.forward = iconButton("next", "Next iteration", () => this.step(1));
    this.text = el("span", { class: "iteration-text" });
    this.element = el("div", { class: "iterations" }, this.back, this.range, this.forward, this.text);
    this.#show();
  }

  /** New iterations came: one that looks at the last goes on to the last. */
  setIterations(iterations) {
    const wasLast = this.index === this.iterations.length - 1;
    const shown = this.iterations[this.index];
    this.iterations = iterations;
    const at = iterations.indexOf(shown);
    this.index = wasLast || at < 0 ? iterations.length - 1 : at;
    this.#show();
  }

  /** @param {number} by */
  step(by) {
    this.#go(Math.min(this.iterations.length - 1, Math.max(0, this.index + by)));
  }

  #go(index) {
    if (index === this.index) return;
    this.index = index;
    this.#show();
    this.onChange();
  }

  #show() {
    const many = this.iterations.length > 1;
    for (const part of [this.range, this.back, this.forward]) part.hidden = !many;
    this.range.max = String(this.iterations.length - 1);
    this.range.value = String(this.index);
    const iteration = this.iterations[this.index];
    const text = iteration === undefined ? "" : `iteration ${count(iteration)}`;
    this.range.setAttribute("aria-valuetext", text);
    setText(this.text, many ? `${text} (${count(this.index + 1)} of ${count(this.iterations.length)})` : text);
  }
}
