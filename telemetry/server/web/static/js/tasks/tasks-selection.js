/** The chosen tasks, and the bar that says what can be done with them. */

import { sendChanges } from "../common/changes.js";
import { byId, setAttribute, setText } from "../common/dom.js";
import { count } from "../common/format.js";

const ARCHIVED = "archived";
const MOST_COMPARED = 20;

export class Selection {
  /**
   * @param {() => void} onChange  the choice changed
   * @param {() => void} onEdited  tasks changed on the server
   */
  constructor(onChange, onEdited) {
    this.onChange = onChange;
    this.onEdited = onEdited;
    /** In the order in which they were chosen: the first one is what the others are compared with. */
    this.tasks = /** @type {Map<string, any>} */ (new Map());
    byId("selection-clear").addEventListener("click", () => this.clear());
    byId("selection-archive").addEventListener("click", () => this.#archive());
    byId("selection-tag").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#addTag();
    });
    this.#show();
  }

  has(id) {
    return this.tasks.has(id);
  }

  /** @param {any[]} tasks @param {boolean} on */
  set(tasks, on) {
    for (const task of tasks) {
      if (on) this.tasks.set(task.id, task);
      else this.tasks.delete(task.id);
    }
    this.#changed();
  }

  clear() {
    this.tasks.clear();
    this.#changed();
  }

  /** Tasks were fetched again: what is known of the chosen ones is of now. */
  refresh(tasks) {
    for (const task of tasks) if (this.tasks.has(task.id)) this.tasks.set(task.id, task);
    this.#show();
  }

  /** Open the comparison, as its button does. */
  compare() {
    if (!byId("selection").hidden) byId("selection-compare").click();
  }

  #changed() {
    this.#say("");
    this.#show();
    this.onChange();
  }

  #show() {
    const size = this.tasks.size;
    byId("selection").hidden = size === 0;
    setText(byId("selection-count"), `${count(size)} ${size === 1 ? "task" : "tasks"} selected`);
    const link = byId("selection-compare");
    const may = size >= 2 && size <= MOST_COMPARED;
    setAttribute(link, "href", may ? `/compare?tasks=${[...this.tasks.keys()].join(",")}` : null);
    setAttribute(link, "aria-disabled", may ? null : "true");
    link.title = may
      ? "Side by side; the first chosen one is what the others are compared with"
      : size < 2
        ? "Choose at least two tasks"
        : `At most ${MOST_COMPARED} tasks fit side by side`;
    setText(byId("selection-archive"), this.#allArchived() ? "Restore" : "Archive");
  }

  #allArchived() {
    return [...this.tasks.values()].every((task) => task.system_tags?.includes(ARCHIVED));
  }

  #archive() {
    const restore = this.#allArchived();
    return this.#edit(
      (task) => {
        const others = (task.system_tags ?? []).filter((tag) => tag !== ARCHIVED);
        return { system_tags: restore ? others : [...others, ARCHIVED] };
      },
      restore ? "restored" : "archived",
    );
  }

  async #addTag() {
    const field = /** @type {HTMLInputElement} */ (byId("selection-tag-name"));
    const tag = field.value.trim();
    if (!tag) return;
    const left = await this.#edit(
      (task) => ({ tags: [...new Set([...(task.tags ?? []), tag])] }),
      `given the tag “${tag}”`,
    );
    if (left === 0) field.value = "";
  }

  /** Change each of the tasks; what cannot be changed stays chosen and is counted. @returns {Promise<number>} how many could not */
  async #edit(changesOf, done) {
    const failed = /** @type {Error[]} */ ([]);
    let changed = 0;
    for (const task of [...this.tasks.values()]) {
      const fields = changesOf(task);
      try {
        await sendChanges(
          task.id,
          Object.entries(fields).map(([key, value]) => ({ section: "task", key, json: JSON.stringify(value) })),
        );
        this.tasks.set(task.id, { ...task, ...fields });
        changed += 1;
      } catch (error) {
        failed.push(/** @type {Error} */ (error));
      }
    }
    const good = changed ? `${count(changed)} ${changed === 1 ? "task was" : "tasks were"} ${done}.` : "";
    this.#say(
      failed.length ? `${good} ${count(failed.length)} could not be: ${failed[0].message}`.trim() : good,
      failed.length > 0,
    );
    this.#show();
    this.onEdited();
    return failed.length;
  }

  #say(text, bad = false) {
    setText(byId("selection-note"), text);
    byId("selection-note").classList.toggle("bad", bad);
  }
}
