/** Panels of the Configuration tab besides typed values: a configuration object, a list of definitions, code. */

import { sendChanges } from "../common/changes.js";
import { copyText, el, iconButton, setText } from "../common/dom.js";
import { valueText } from "../common/typed.js";

/** A configuration object: its text, which can be copied, and edited while the task is a draft. */
export class ObjectPanel {
  /** @param {{taskId: string, name: string, id: string, saved: () => void}} options */
  constructor(options) {
    this.options = options;
    this.kept = /** @type {any} */ ({});
    this.editing = false;
    this.mayEdit = false;
    this.type = el("span", { class: "badge", hidden: true });
    this.description = el("p", { class: "muted", hidden: true });
    this.copy = iconButton("copy", `Copy ${options.name}`, () => copyText(this.copy, textOf(this.kept)));
    this.editButton = el("button", { type: "button", class: "button small", onclick: () => this.#edit() }, "Edit");
    this.body = el("div", {});
    this.element = el(
      "section",
      { class: "panel object", id: options.id, "aria-label": options.name },
      el(
        "header",
        { class: "panel-head" },
        el("h2", {}, options.name),
        this.type,
        el("span", { class: "spacer" }),
        this.copy,
        this.editButton,
      ),
      this.description,
      this.body,
    );
  }

  show(kept, mayEdit, words) {
    this.kept = kept;
    this.mayEdit = mayEdit;
    const text = textOf(kept);
    const all = `${this.options.name} ${text}`.toLowerCase();
    this.element.hidden = !this.editing && !words.every((word) => all.includes(word));
    this.editButton.hidden = !mayEdit || this.editing;
    setText(this.type, kept?.type ?? "");
    this.type.hidden = !kept?.type;
    setText(this.description, kept?.description ?? "");
    this.description.hidden = !kept?.description;
    if (!this.editing) this.body.replaceChildren(el("pre", { class: "code", tabindex: 0 }, text));
  }

  #edit() {
    this.editing = true;
    this.editButton.hidden = true;
    const text = textOf(this.kept);
    const field = /** @type {HTMLTextAreaElement} */ (
      el("textarea", {
        class: "mono",
        "aria-label": `Text of ${this.options.name}`,
        rows: Math.min(30, text.split("\n").length + 1),
        spellcheck: "false",
      })
    );
    field.value = text;
    const error = el("p", { class: "notice bad", role: "alert", hidden: true });
    const stop = () => {
      this.editing = false;
      this.show(this.kept, this.mayEdit, []);
      this.editButton.focus();
    };
    const save = el("button", { type: "submit", class: "button primary" }, "Save");
    const submit = async (event) => {
      event.preventDefault();
      const wrong = problemOf(field.value, this.kept?.type);
      setText(error, wrong);
      error.hidden = !wrong;
      if (wrong) return;
      save.setAttribute("disabled", "");
      try {
        // The typed value is left out: from now on the text says what it is.
        const { type = "", description = "" } = this.kept ?? {};
        await sendChanges(this.options.taskId, [
          {
            section: "configuration",
            key: this.options.name,
            json: JSON.stringify({ text: field.value, type, description }),
          },
        ]);
        this.kept = { text: field.value, type, description };
        stop();
        this.options.saved();
      } catch (failure) {
        setText(error, `${failure.message} What you typed is still here.`);
        error.hidden = false;
      } finally {
        save.removeAttribute("disabled");
      }
    };
    this.body.replaceChildren(
      el(
        "form",
        { class: "values-form", onsubmit: submit },
        field,
        error,
        el(
          "div",
          { class: "buttons" },
          el("span", { class: "spacer" }),
          el("button", { type: "button", class: "button", onclick: stop }, "Cancel"),
          save,
        ),
      ),
    );
    field.focus();
  }
}

const textOf = (kept) => (typeof kept === "string" ? kept : (kept?.text ?? valueText(kept?.value ?? kept, 2)));

/** Of what is JSON a slip is seen at once; other texts are left to who reads them. */
function problemOf(text, type) {
  if (type !== "json") return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `This is not JSON: ${error.message}. Nothing was sent.`;
  }
}

/** @param {string} id @param {string} title @param {[string, any][]} pairs */
export function definitionsPanel(id, title, pairs) {
  return el(
    "section",
    { class: "panel", id, "aria-label": title },
    el("header", { class: "panel-head" }, el("h2", {}, title)),
    el(
      "dl",
      { class: "definitions" },
      ...pairs.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, valueText(value, 2))]),
    ),
  );
}

/**
 * A longer text with a button to copy it.
 * @param {string} id
 * @param {string} title
 * @param {string} text
 * @param {"diff" | "text"} kind  a diff's lines have colours
 */
export function codePanel(id, title, text, kind) {
  const copy = iconButton("copy", `Copy ${title.toLowerCase()}`, () => copyText(copy, text));
  const lines = kind === "diff" ? diffLines(text) : [text];
  return el(
    "section",
    { class: "panel object", id, "aria-label": title },
    el("header", { class: "panel-head" }, el("h2", {}, title), el("span", { class: "spacer" }), copy),
    el("pre", { class: "code", tabindex: 0 }, ...lines),
  );
}

function diffLines(text) {
  const kindOf = (line) =>
    /^(\+\+\+|---|diff |index )/.test(line) ? "file" : ({ "+": "added", "-": "gone", "@": "hunk" }[line[0]] ?? "");
  return text.split("\n").map((line) => el("span", { class: `diff ${kindOf(line)}` }, line));
}
