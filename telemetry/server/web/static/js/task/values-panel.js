/** A panel of named, typed values (one section of parameters, or the user properties), which can be edited where it may be. */

import { entryJson, sendChanges } from "../common/changes.js";
import { copyText, el, icon, iconButton, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { entryOf, NotOfType, TYPES, valueJson, valueText } from "../common/typed.js";

const LONG_CHARS = 160;

/**
 * @typedef {{key: string, name: string, value: any, type: string, description: string}} Entry
 * @typedef {{taskId: string, section: string, prefix: string, title: string, id: string, noun: string, saved: () => void}} Options
 *   `section`: of the record; `prefix`: what the panel's keys begin with; `noun`: of one value
 */

export class ValuesPanel {
  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    this.entries = /** @type {Entry[]} */ ([]);
    this.words = /** @type {string[]} */ ([]);
    this.mayEdit = false;
    this.editing = false;
    this.form = /** @type {Form | null} */ (null);
    this.count = el("span", { class: "count" });
    this.editButton = el("button", { type: "button", class: "button small", onclick: () => this.edit() }, "Edit");
    this.body = el("div", {});
    this.element = el(
      "section",
      { class: "panel values", id: options.id, "aria-label": options.title },
      el("header", { class: "panel-head" }, el("h2", {}, `${options.title} `, this.count), this.editButton),
      this.body,
    );
  }

  /**
   * Show what the record has, unless it is being edited.
   * @param {Record<string, any>} kept  of the record's section
   * @param {boolean} mayEdit
   * @param {string[]} words  to be found in name, value or description
   * @returns {number} how many values match
   */
  show(kept, mayEdit, words) {
    this.mayEdit = mayEdit;
    this.words = words;
    this.entries = Object.entries(kept)
      .map(([key, value]) => ({ key, name: key.slice(this.options.prefix.length), ...entryOf(value) }))
      .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    return this.#draw();
  }

  /** Whether the panel has something to show or to be filled. */
  get alive() {
    return this.entries.length > 0 || this.editing;
  }

  edit() {
    this.editing = true;
    this.form = new Form(this.options, this.entries, () => this.#stop());
    this.editButton.hidden = true;
    this.body.replaceChildren(this.form.element);
    this.form.focus();
  }

  #stop() {
    this.editing = false;
    this.form = null;
    this.#draw();
    this.editButton.focus();
  }

  #draw() {
    const found = this.words.length ? this.entries.filter((entry) => matches(entry, this.words)) : this.entries;
    setText(
      this.count,
      this.words.length ? `${count(found.length)} of ${count(this.entries.length)}` : count(this.entries.length),
    );
    this.editButton.hidden = !this.mayEdit || this.editing;
    this.element.hidden = !this.editing && this.words.length > 0 && found.length === 0;
    if (this.editing) return found.length;
    this.body.replaceChildren(
      found.length ? listOf(found) : el("p", { class: "muted" }, this.mayEdit ? "Nothing here yet." : "Nothing here."),
    );
    return found.length;
  }
}

const matches = (entry, words) => {
  const text = `${entry.key} ${valueText(entry.value)} ${entry.description}`.toLowerCase();
  return words.every((word) => text.includes(word));
};

/** @param {Entry[]} entries */
function listOf(entries) {
  return el(
    "dl",
    { class: "value-list" },
    ...entries.map((entry) => {
      const text = valueText(entry.value);
      const whole = el("dd", { class: entry.value === null || entry.value === undefined ? "value none" : "value" });
      const structured =
        entry.value !== null &&
        typeof entry.value === "object" &&
        "value" in entry &&
        valueText(entry.value, 2).includes("\n");
      if (text.length > LONG_CHARS || structured)
        whole.append(el("pre", { tabindex: 0 }, structured ? valueText(entry.value, 2) : text));
      else whole.append(text === "" ? el("span", { class: "muted" }, "(empty)") : text);
      const copy = iconButton("copy", `Copy ${entry.name}`, () => copyText(copy, text));
      return el(
        "div",
        { class: "value-row", "data-key": entry.key },
        el("dt", {}, entry.name),
        whole,
        el("dd", { class: "type" }, entry.type ? el("span", { class: "badge" }, entry.type) : null),
        el("dd", { class: "description" }, entry.description),
        el("dd", { class: "acts" }, copy),
      );
    }),
  );
}

/** The panel while it is edited: a field for each value, rows to add, and one request for all of it. */
class Form {
  /** @param {Options} options @param {Entry[]} entries @param {() => void} done */
  constructor(options, entries, done) {
    this.options = options;
    this.done = done;
    this.rows = entries.map((entry) => new Row(entry, options.noun));
    this.list = el("div", { class: "edit-list" }, ...this.rows.map((row) => row.element));
    this.error = el("p", { class: "notice bad", role: "alert", hidden: true });
    this.saveButton = el("button", { type: "submit", class: "button primary" }, "Save");
    const add = el("button", { type: "button", class: "button", onclick: () => this.#add().focus() });
    add.append(icon("add"), `Add ${options.noun}`);
    this.element = el(
      "form",
      {
        class: "values-form",
        novalidate: true,
        onsubmit: (event) => this.#submit(event),
        onkeydown: (event) => event.key === "Escape" && this.#leave(event),
      },
      this.list,
      this.error,
      el(
        "div",
        { class: "buttons" },
        add,
        el("span", { class: "spacer" }),
        el("button", { type: "button", class: "button", onclick: done }, "Cancel"),
        this.saveButton,
      ),
    );
    if (!entries.length) this.#add();
  }

  focus() {
    this.rows[0]?.focus();
  }

  #add() {
    const row = new Row(null, this.options.noun);
    this.rows.push(row);
    this.list.append(row.element);
    return row;
  }

  /** Escape must not throw away what was typed. */
  #leave(event) {
    if (this.rows.some((row) => row.changed)) return;
    event.stopPropagation();
    this.done();
  }

  async #submit(event) {
    event.preventDefault();
    const changes = this.#changes();
    if (!changes) return;
    if (!changes.length) {
      this.done();
      return;
    }
    this.saveButton.setAttribute("disabled", "");
    try {
      await sendChanges(this.options.taskId, changes);
      this.done();
      this.options.saved();
    } catch (error) {
      this.#say(`${error.message} What you typed is still here.`);
    } finally {
      this.saveButton.removeAttribute("disabled");
    }
  }

  /** @returns {import("../common/changes.js").Change[] | null} null where a field is wrong; it says so and has the focus */
  #changes() {
    const { section, prefix, noun } = this.options;
    const names = new Map();
    let wrong = /** @type {Row | null} */ (null);
    const changes = [];
    for (const row of this.rows) {
      row.complain("");
      if (row.removed) {
        if (row.entry) changes.push({ section, key: row.entry.key, json: "null" });
        continue;
      }
      const complaint = row.empty ? "" : names.has(row.name) ? `There is another ${noun} of this name.` : row.check();
      names.set(row.name, row);
      if (complaint) {
        row.complain(complaint);
        wrong ??= row;
      } else if (row.changed && !row.empty)
        changes.push({ section, key: row.entry?.key ?? prefix + row.name, json: row.json() });
    }
    this.#say(wrong ? "Nothing was sent: see the fields marked above." : "");
    wrong?.focus();
    return wrong ? null : changes;
  }

  #say(text) {
    setText(this.error, text);
    this.error.hidden = !text;
  }
}

let lastId = 0;

/** One value in the form. Without an entry it is a new one, and has fields for its name and type, too. */
class Row {
  /** @param {Entry | null} entry @param {string} noun */
  constructor(entry, noun) {
    this.entry = entry;
    this.removed = false;
    const id = `edit-${(lastId += 1)}`;
    this.before = entry ? valueText(entry.value) : "";
    this.nameField = entry
      ? null
      : el("input", {
          type: "text",
          class: "mono",
          "aria-label": "Name",
          placeholder: "name",
          autocomplete: "off",
          spellcheck: "false",
        });
    const choose = !entry || entry.type === "";
    this.typeField = choose
      ? el(
          "select",
          { "aria-label": entry ? `Type of ${entry.name}` : "Type" },
          ...(entry ? [el("option", { value: "" }, "None")] : []),
          ...TYPES.map((type) => el("option", { value: type }, type)),
        )
      : null;
    this.field = fieldOf(entry, this.before);
    this.field.setAttribute("aria-label", entry ? `Value of ${entry.name}` : "Value");
    this.field.setAttribute("aria-describedby", id);
    this.descriptionField = el("input", {
      type: "text",
      "aria-label": entry ? `Description of ${entry.name}` : "Description",
      placeholder: "description",
      autocomplete: "off",
    });
    this.descriptionField.value = entry?.description ?? "";
    this.removeButton = iconButton("remove", entry ? `Remove ${entry.name}` : `Remove this ${noun}`, () =>
      this.#toggleRemoved(),
    );
    this.error = el("p", { class: "field-error", id, role: "alert", hidden: true });
    this.element = el(
      "div",
      { class: "edit-row" },
      el("div", { class: "edit-name" }, this.nameField ?? el("span", { title: entry?.name }, entry?.name ?? "")),
      this.field,
      this.typeField ?? el("span", { class: "badge" }, entry?.type ?? ""),
      this.descriptionField,
      this.removeButton,
      this.error,
    );
  }

  get name() {
    return this.entry?.name ?? this.nameField?.value.trim() ?? "";
  }

  get type() {
    return this.typeField ? this.typeField.value : (this.entry?.type ?? "str");
  }

  /** A new row in which nothing was typed. */
  get empty() {
    return !this.entry && !this.name && !this.field.value && !this.descriptionField.value;
  }

  get changed() {
    if (!this.entry) return !this.empty;
    return (
      this.removed ||
      this.field.value !== this.before ||
      this.type !== this.entry.type ||
      this.descriptionField.value !== this.entry.description
    );
  }

  focus() {
    (this.nameField ?? this.field).focus();
  }

  /** @returns {string} what is wrong; "" if nothing is */
  check() {
    if (!this.name) return "It needs a name.";
    try {
      valueJson(this.field.value, this.type);
      return "";
    } catch (error) {
      if (error instanceof NotOfType)
        return `${this.field.value ? `“${short(this.field.value)}” is ` : "An empty field is "}${error.message}.`;
      throw error;
    }
  }

  json() {
    const { json, type } = valueJson(this.field.value, this.type);
    return entryJson({ json, type, description: this.descriptionField.value });
  }

  complain(text) {
    setText(this.error, text);
    this.error.hidden = !text;
    this.field.toggleAttribute("aria-invalid", Boolean(text));
  }

  #toggleRemoved() {
    if (!this.entry) {
      this.removed = true;
      this.element.remove();
      return;
    }
    this.removed = !this.removed;
    this.element.classList.toggle("removed", this.removed);
    this.removeButton.setAttribute("aria-pressed", String(this.removed));
    this.field.toggleAttribute("disabled", this.removed);
  }
}

const short = (text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text);

function fieldOf(entry, text) {
  if (entry?.type === "bool") {
    const select = el("select", {}, ...["True", "False"].map((word) => el("option", { value: word }, word)));
    select.value = text;
    return select;
  }
  const long = text.length > 60 || text.includes("\n");
  const field = long
    ? el("textarea", {
        rows: Math.min(12, text.split("\n").length + Math.ceil(text.length / 120)),
        class: "mono",
        spellcheck: "false",
      })
    : el("input", { type: "text", class: "mono", autocomplete: "off", spellcheck: "false" });
  field.value = text;
  return field;
}
