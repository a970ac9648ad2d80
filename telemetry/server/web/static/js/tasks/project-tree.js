/** Projects: the tree in the toolbar, and the path with what lies below it above the table. */

import { byId, el } from "../common/dom.js";
import { count } from "../common/format.js";
import { Picker, searchField } from "../common/picker.js";
import { DEFAULTS, writeQuery } from "./tasks-query.js";

const MAX_CHILDREN = 12;

/** @typedef {{name: string, own: number, all: number, known: boolean}} Project  `all`: with what is below it */

export class ProjectTree {
  /** @param {(changes: object) => void} change */
  constructor(change) {
    this.change = change;
    this.projects = /** @type {Project[]} */ ([]);
    this.query = DEFAULTS;
    this.picker = new Picker(byId("project"), "Project", () => this.#drawTree());
  }

  /** @param {{name: string, tasks: number}[]} projects  of the API */
  offer(projects) {
    this.projects = withParents(projects);
    this.#drawPath();
  }

  /** @param {import("./tasks-query.js").Query} query */
  show(query) {
    this.query = query;
    this.picker.showChosen(query.project);
    this.#drawPath();
  }

  #choose(project, subprojects = "1") {
    this.picker.close(true);
    this.change({ project, subprojects, page: 0 });
  }

  #drawTree() {
    const item = (name, label, depth, tasks) =>
      el(
        "button",
        {
          type: "button",
          class: `tree-item depth-${Math.min(6, depth)}`,
          "data-text": name.toLowerCase(),
          title: name || label,
          "aria-current": this.query.project === name ? "true" : null,
          onclick: () => this.#choose(name),
        },
        el("span", {}, label),
        el("span", { class: "muted" }, tasks),
      );
    const list = el(
      "div",
      { class: "picker-list tree" },
      item("", "All projects", 0, ""),
      ...this.projects.map(({ name, all }) =>
        item(name, name.slice(name.lastIndexOf("/") + 1), name.split("/").length - 1, count(all)),
      ),
    );
    const none = el("p", { class: "muted picker-none", hidden: true });
    const alone = /** @type {HTMLInputElement} */ (
      el("input", { type: "checkbox", checked: this.query.subprojects === "1" })
    );
    alone.addEventListener("change", () => this.change({ subprojects: alone.checked ? "1" : "0", page: 0 }));
    const below = el("label", { class: "choice picker-extra" }, alone, el("span", {}, "With sub-projects"));
    this.panel = this.picker.panel;
    this.panel.replaceChildren(
      ...(this.projects.length > 8 ? [searchField(list, none)] : []),
      list,
      none,
      ...(this.query.project ? [below] : []),
    );
  }

  /** "All projects / vision / imagenet", and the projects below as links. */
  #drawPath() {
    const { project } = this.query;
    const link = (name, label, current) =>
      el(
        "a",
        {
          href: `/${writeQuery({ ...this.query, project: name, subprojects: "1", page: 0 })}`,
          "aria-current": current ? "page" : null,
          onclick: (event) => this.#follow(event, name),
        },
        label,
      );
    const parts = project ? project.split("/") : [];
    const path = [
      link("", "All projects", !project),
      ...parts.map((part, index) =>
        link(parts.slice(0, index + 1).join("/"), part || "(no name)", index === parts.length - 1),
      ),
    ];
    const children = this.projects.filter(({ name }) =>
      project ? name.startsWith(`${project}/`) && !name.slice(project.length + 1).includes("/") : !name.includes("/"),
    );
    const below = children.slice(0, MAX_CHILDREN).map(({ name, all }) => {
      const chip = link(name, name.slice(project ? project.length + 1 : 0) || "(no project)", false);
      chip.className = "badge";
      chip.append(el("span", { class: "muted" }, ` ${count(all)}`));
      return chip;
    });
    const rest = children.length - below.length;
    byId("project-path").replaceChildren(
      el("span", { class: "path" }, ...path),
      ...(below.length
        ? [
            el(
              "span",
              { class: "below" },
              ...below,
              ...(rest > 0 ? [el("span", { class: "muted" }, `and ${count(rest)} more`)] : []),
            ),
          ]
        : []),
    );
    byId("project-path").hidden = this.projects.length < 2 && !project;
  }

  #follow(event, name) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.change({ project: name, subprojects: "1", page: 0 });
  }
}

/** Projects that only hold others are in the tree, too. @returns {Project[]} parents before what is below them */
function withParents(projects) {
  const found = /** @type {Map<string, Project>} */ (new Map());
  const at = (name) => found.get(name) ?? found.set(name, { name, own: 0, all: 0, known: false }).get(name);
  for (const { name, tasks } of projects) {
    Object.assign(/** @type {Project} */ (at(name)), { own: tasks, known: true });
    const parts = name.split("/");
    for (let length = 1; length <= parts.length; length += 1) {
      const one = /** @type {Project} */ (at(parts.slice(0, length).join("/")));
      one.all += tasks;
    }
  }
  const key = (name) => name.toLowerCase().replaceAll("/", "\u0001");
  return [...found.values()].sort((a, b) => (key(a.name) < key(b.name) ? -1 : 1));
}
