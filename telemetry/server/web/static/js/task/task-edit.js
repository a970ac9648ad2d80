/** The dialog in which a task's name, project, tags and comment are edited, and the task is archived. */

import { sendChanges } from "../common/changes.js";
import { byId, el, iconButton, setText } from "../common/dom.js";

const ARCHIVED = "archived";

/**
 * @param {string} taskId
 * @param {() => any} current  the task as it is shown now
 * @param {() => void} saved
 */
export function startEditing(taskId, current, saved) {
  const button = iconButton("edit", "Edit name, tags and comment", () => open(taskId, current(), saved));
  byId("task-actions").append(button);
}

/** @param {string} text @returns {string[]} the tags of a field, each once */
export const tagsOf = (text) => [
  ...new Set(
    text
      .split(",")
      .map((tag) => tag.trim())
      .filter(Boolean),
  ),
];

function open(taskId, task, saved) {
  if (!task) return;
  const dialog = /** @type {HTMLDialogElement} */ (byId("edit-dialog"));
  const name = input("text", task.name ?? "");
  const project = input("text", task.project ?? "");
  const tags = input("text", (task.tags ?? []).join(", "));
  const comment = /** @type {HTMLTextAreaElement} */ (el("textarea", { rows: 4 }));
  comment.value = task.comment ?? "";
  const error = el("p", { class: "notice bad", role: "alert", hidden: true });
  const say = (text) => {
    setText(error, text);
    error.hidden = !text;
  };
  const archived = (task.system_tags ?? []).includes(ARCHIVED);
  const send = async (changes) => {
    try {
      if (changes.length)
        await sendChanges(
          taskId,
          changes.map(([key, value]) => ({ section: "task", key, json: JSON.stringify(value) })),
        );
      dialog.close();
      saved();
    } catch (failure) {
      say(`${failure.message} What you typed is still here.`);
    }
  };
  const submit = (event) => {
    event.preventDefault();
    if (!name.value.trim()) return say("A task needs a name. Nothing was sent.");
    const before = {
      name: task.name ?? "",
      project: task.project ?? "",
      tags: task.tags ?? [],
      comment: task.comment ?? "",
    };
    const after = {
      name: name.value.trim(),
      project: project.value.trim(),
      tags: tagsOf(tags.value),
      comment: comment.value,
    };
    return send(Object.entries(after).filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(before[key])));
  };
  const archive = () =>
    send([
      [
        "system_tags",
        archived ? task.system_tags.filter((tag) => tag !== ARCHIVED) : [...(task.system_tags ?? []), ARCHIVED],
      ],
    ]);
  dialog.replaceChildren(
    el(
      "form",
      { class: "dialog-form", novalidate: true, onsubmit: submit },
      el("h2", {}, "Edit task"),
      labelled("Name", name),
      labelled("Project", project),
      labelled("Tags, separated by commas", tags),
      labelled("Comment", comment),
      error,
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", class: "button", onclick: archive }, archived ? "Restore" : "Archive"),
        el("span", { class: "spacer" }),
        el("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"),
        el("button", { type: "submit", class: "button primary" }, "Save"),
      ),
    ),
  );
  dialog.showModal();
  name.focus();
}

function input(type, value) {
  const field = /** @type {HTMLInputElement} */ (el("input", { type, autocomplete: "off", spellcheck: "false" }));
  field.value = value;
  return field;
}

export const labelled = (label, field) => el("label", { class: "labelled" }, el("span", {}, label), field);
