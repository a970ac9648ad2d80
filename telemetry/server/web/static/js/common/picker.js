/** A button with a panel below it: for filters with several choices, the project tree and the columns. */

import { el, setText } from "./dom.js";

const SEARCH_FROM = 9; // choices; fewer are seen at a glance

export class Picker {
  /**
   * @param {HTMLElement} parent  an empty element, where the picker is made
   * @param {string} label
   * @param {() => void} [onOpen]
   */
  constructor(parent, label, onOpen) {
    this.label = label;
    this.onOpen = onOpen;
    this.text = el("span", { class: "picker-text" }, label);
    this.button = el(
      "button",
      {
        type: "button",
        class: "button picker-button",
        "aria-haspopup": "dialog",
        "aria-expanded": "false",
        onclick: () => this.toggle(),
      },
      this.text,
    );
    this.panel = el("div", { class: "picker-panel", role: "dialog", "aria-label": label, hidden: true, tabindex: -1 });
    parent.classList.add("picker");
    parent.append(this.button, this.panel);
    parent.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.panel.hidden) {
        event.stopPropagation();
        this.close(true);
      }
      if (["ArrowDown", "ArrowUp"].includes(event.key) && !this.panel.hidden) this.#step(event);
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.panel.hidden && !parent.contains(/** @type {Node} */ (event.target))) this.close(false);
    });
    parent.addEventListener("focusout", (event) => {
      const to = /** @type {Node | null} */ (event.relatedTarget);
      if (to && !this.panel.hidden && !parent.contains(to)) this.close(false);
    });
  }

  toggle() {
    if (!this.panel.hidden) {
      this.close(true);
      return;
    }
    this.onOpen?.();
    this.panel.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    // Not out of the window at its right.
    this.panel.classList.toggle(
      "right",
      this.button.getBoundingClientRect().left + this.panel.offsetWidth > document.documentElement.clientWidth - 14,
    );
    this.#focusFirst();
  }

  close(keepFocus) {
    this.panel.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
    if (keepFocus) this.button.focus();
  }

  /** Draw again while it is open, unless somebody has begun to choose. */
  redraw(draw) {
    if (this.panel.hidden) return;
    const focused = document.activeElement;
    const inside = this.panel.contains(focused);
    if (
      inside &&
      !(focused instanceof HTMLInputElement && focused.type === "search" && !focused.value) &&
      focused !== this.panel
    )
      return;
    draw();
    if (inside) this.#focusFirst();
  }

  #focusFirst() {
    const first = this.panel.querySelector("input, button, a");
    (first instanceof HTMLElement ? first : this.panel).focus({ preventScroll: true });
  }

  /** @param {string} chosen  what is chosen, in a word; "" for nothing */
  showChosen(chosen) {
    setText(this.text, chosen ? `${this.label}: ${chosen}` : this.label);
    this.button.classList.toggle("chosen", Boolean(chosen));
  }

  #step(event) {
    const stops = [...this.panel.querySelectorAll("input:not([type=search]), button, a")].filter(
      (stop) => stop instanceof HTMLElement && stop.offsetParent,
    );
    const at = stops.indexOf(/** @type {any} */ (document.activeElement));
    const next = stops[at + (event.key === "ArrowDown" ? 1 : -1)];
    event.preventDefault();
    event.stopPropagation();
    if (next instanceof HTMLElement) next.focus();
  }
}

/** A picker of several words of a list. */
export class WordsPicker extends Picker {
  /**
   * @param {HTMLElement} parent
   * @param {string} label
   * @param {(words: string[]) => void} change
   * @param {HTMLElement} [extra]  shown below the list
   */
  constructor(parent, label, change, extra) {
    super(parent, label, () => this.#draw());
    this.change = change;
    this.extra = extra;
    this.choices = /** @type {[string, string][]} */ ([]);
    this.chosen = /** @type {string[]} */ ([]);
  }

  /** @param {[string, string][]} choices  value and label */
  offer(choices) {
    this.choices = choices;
    this.#show();
    this.redraw(() => this.#draw());
  }

  /** @param {string[]} chosen */
  show(chosen) {
    this.chosen = chosen;
    this.#show();
  }

  #show() {
    const label = (value) => this.choices.find(([other]) => other === value)?.[1] ?? value;
    this.showChosen(
      this.chosen.length > 1 ? String(this.chosen.length) : this.chosen.length ? label(this.chosen[0]) : "",
    );
  }

  #draw() {
    // What is chosen in the address but in no task is still there to be taken back.
    const unknown = this.chosen.filter((value) => !this.choices.some(([other]) => other === value));
    const all = [...this.choices, ...unknown.map((value) => /** @type {[string, string]} */ ([value, value]))];
    const list = el("div", { class: "picker-list" }, ...all.map(([value, label]) => this.#choice(value, label)));
    const none = el("p", { class: "muted picker-none", hidden: all.length > 0 }, "There is nothing to choose yet.");
    this.panel.replaceChildren(
      ...(all.length >= SEARCH_FROM ? [searchField(list, none)] : []),
      list,
      none,
      ...(this.extra ? [this.extra] : []),
    );
  }

  #choice(value, label) {
    const box = /** @type {HTMLInputElement} */ (
      el("input", { type: "checkbox", checked: this.chosen.includes(value) })
    );
    box.addEventListener("change", () => {
      this.chosen = box.checked ? [...this.chosen, value] : this.chosen.filter((other) => other !== value);
      this.#show();
      this.change(this.chosen);
    });
    return el("label", { class: "choice", "data-text": label.toLowerCase() }, box, el("span", {}, label));
  }
}

/** A field that leaves of a list only what has its words; items say what they are in data-text. */
export function searchField(list, none) {
  const field = /** @type {HTMLInputElement} */ (
    el("input", {
      type: "search",
      placeholder: "Search",
      "aria-label": "Search choices",
      autocomplete: "off",
      spellcheck: "false",
    })
  );
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const item of list.querySelectorAll("[data-text]")) {
      const fits = words.every((word) => (item.getAttribute("data-text") ?? "").includes(word));
      item.toggleAttribute("hidden", !fits);
      left += Number(fits);
    }
    for (const group of list.querySelectorAll("[data-group]"))
      group.toggleAttribute("hidden", !group.querySelector("[data-text]:not([hidden])"));
    setText(none, "Nothing has these words.");
    none.hidden = left > 0;
  });
  return field;
}
