/** The Configuration tab: parameters by section, configuration objects, user properties, labels, script, container. */

import { getText } from "../common/api.js";
import { codePanel, definitionsPanel, ObjectPanel } from "./config-panels.js";
import { arrange, byId, coalesce, debounce, el, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { parseExact } from "../common/typed.js";
import { ValuesPanel } from "./values-panel.js";

const SEARCH_DELAY_MS = 120;
const REFRESH_EVERY_MS = 1000;
// Parameters may be set while a task is a draft; what ran with them must not be rewritten.
const DRAFT = "created";

const SCRIPT_FIELDS = [
  ["repository", "Repository"],
  ["branch", "Branch"],
  ["commit", "Commit"],
  ["entry_point", "Entry point"],
  ["working_dir", "Folder"],
  ["module", "Module"],
  ["binary", "Interpreter"],
];
const CONTAINER_FIELDS = [
  ["image", "Image"],
  ["arguments", "Arguments"],
];

export class Configuration {
  /**
   * @param {string} taskId
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, onError) {
    this.taskId = taskId;
    this.record = /** @type {Record<string, any>} */ ({});
    this.draft = false;
    this.search = "";
    this.drawn = "";
    this.detail = "";
    this.panels = /** @type {Map<string, ValuesPanel | ObjectPanel>} */ (new Map());
    this.fixed = /** @type {Map<string, {state: string, element: HTMLElement}>} */ (new Map());
    this.refresh = coalesce(() => this.#fetch().catch(onError), REFRESH_EVERY_MS);
    this.#listen();
  }

  /** Scroll to a part of the tab (`#configuration/Args`), now or when it is there. */
  show(detail) {
    this.detail = detail;
    this.#jump();
  }

  #listen() {
    const field = /** @type {HTMLInputElement} */ (byId("configuration-search"));
    field.addEventListener(
      "input",
      debounce(() => {
        this.search = field.value.trim();
        this.#draw(true);
      }, SEARCH_DELAY_MS),
    );
    byId("new-section").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = /** @type {HTMLInputElement} */ (byId("new-section-name"));
      if (name.value.trim()) this.#startSection(name.value.trim().replaceAll("/", "_"));
      name.value = "";
    });
    byId("new-property").addEventListener("click", () => this.#properties().edit());
  }

  async #fetch() {
    const task = parseExact(await getText(`/tasks/${this.taskId}`));
    this.record = task.record;
    this.draft = task.status === DRAFT;
    this.#draw(false);
  }

  /** Draw, unless nothing changed: a selection or an open focus must survive the live feed. */
  #draw(always) {
    const { parameters, configuration, properties, labels, script, container } = this.record;
    const state = JSON.stringify([parameters, configuration, properties, labels, script, container, this.draft]);
    if (!always && state === this.drawn) return;
    this.drawn = state;
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    let all = 0;
    const shown = /** @type {{element: HTMLElement, title: string}[]} */ ([]);
    const put = (element, title) => !element.hidden && shown.push({ element, title });
    for (const [name, kept] of sections(parameters ?? {}, this.panels)) {
      const panel = this.#section(name);
      found += panel.show(kept, this.draft, words);
      all += panel.entries.length;
      if (panel.alive) put(panel.element, name);
    }
    for (const [name, kept] of Object.entries(configuration ?? {}).sort(byKey)) {
      const panel = this.#object(name);
      panel.show(kept, this.draft, words);
      put(panel.element, name);
    }
    const own = this.#properties();
    found += own.show(properties ?? {}, true, words);
    all += own.entries.length;
    if (own.alive) put(own.element, "User properties");
    for (const [title, element] of this.#fixedPanels(words)) put(element, title);
    arrange(
      byId("configuration"),
      shown.map(({ element }) => element),
    );
    this.#showIndex(shown);
    byId("new-section").hidden = !this.draft;
    byId("new-property").hidden = own.alive;
    setText(
      byId("configuration-count"),
      words.length
        ? `${count(found)} of ${count(all)} values`
        : all
          ? `${count(all)} ${all === 1 ? "value" : "values"}`
          : "",
    );
    byId("no-configuration").hidden = shown.length > 0;
    setText(
      byId("no-configuration"),
      words.length
        ? "Nothing here has these words."
        : 'No configuration yet. task.connect(parameters), task.set_parameter("General/lr", 0.1) or task.connect_configuration(…) put it here.',
    );
    this.#jump();
  }

  /** Labels, script and container: they are shown, not edited. */
  #fixedPanels(words) {
    const { labels = {}, script = {}, container = {} } = this.record;
    const made = /** @type {[string, HTMLElement][]} */ ([]);
    const add = (title, values, make) => {
      const text = JSON.stringify(values).toLowerCase();
      const state = JSON.stringify(values);
      if (!Object.keys(values).length || !words.every((word) => text.includes(word))) return;
      // Made again only where something changed: an unfolded diff stays unfolded.
      const kept = this.fixed.get(title);
      const element = kept?.state === state ? kept.element : make();
      this.fixed.set(title, { state, element });
      made.push([title, element]);
    };
    add("Labels", labels, () =>
      definitionsPanel(
        "labels",
        "Labels",
        Object.entries(labels).sort((a, b) => Number(a[1]) - Number(b[1])),
      ),
    );
    const { diff, requirements, ...scriptRest } = script;
    add("Script", scriptRest, () => definitionsPanel("script", "Script", named(scriptRest, SCRIPT_FIELDS)));
    const changes = isChanges(script);
    const heading = changes ? "Uncommitted changes" : fileName(script.entry_point) || "Script text";
    add(heading, diff ? { diff } : {}, () => codePanel("diff", heading, diff, changes ? "diff" : "text"));
    add("Packages", requirements ? { requirements } : {}, () =>
      codePanel("packages", "Packages", textOfRequirements(requirements), "text"),
    );
    const { setup_script: setup, ...containerRest } = container;
    add("Container", containerRest, () =>
      definitionsPanel("container", "Container", named(containerRest, CONTAINER_FIELDS)),
    );
    add("Container setup", setup ? { setup } : {}, () =>
      codePanel("container-setup", "Container setup", setup, "text"),
    );
    return made;
  }

  #section(name) {
    const prefix = `${name}/`;
    return this.#panel(
      `parameters ${name}`,
      () =>
        new ValuesPanel({
          taskId: this.taskId,
          section: "parameters",
          prefix: name ? prefix : "",
          title: name || "(no section)",
          id: idOf("parameters", name),
          noun: "parameter",
          saved: this.refresh,
        }),
    );
  }

  #properties() {
    return this.#panel(
      "properties",
      () =>
        new ValuesPanel({
          taskId: this.taskId,
          section: "properties",
          prefix: "",
          title: "User properties",
          id: "user-properties",
          noun: "property",
          saved: this.refresh,
        }),
    );
  }

  #object(name) {
    return this.#panel(
      `configuration ${name}`,
      () => new ObjectPanel({ taskId: this.taskId, name, id: idOf("object", name), saved: this.refresh }),
    );
  }

  #panel(key, make) {
    const panel = this.panels.get(key) ?? make();
    this.panels.set(key, panel);
    return panel;
  }

  #startSection(name) {
    const panel = this.#section(name);
    if (!panel.editing) panel.edit();
    this.#draw(true);
    panel.element.scrollIntoView({ block: "nearest" });
    panel.form?.focus();
  }

  #showIndex(shown) {
    const index = byId("configuration-index");
    index.hidden = shown.length < 2;
    const names = shown.map(({ title }) => title).join("\n");
    if (index.dataset.names === names) return;
    index.dataset.names = names;
    index.replaceChildren(
      ...shown.map(({ element, title }) =>
        el("a", { href: `#configuration/${encodeURIComponent(element.id)}` }, title),
      ),
    );
  }

  #jump() {
    if (!this.detail) return;
    const wanted = [...byId("configuration").children].find(
      (panel) => panel.id === this.detail || panel.getAttribute("aria-label") === this.detail,
    );
    if (!wanted) return;
    this.detail = "";
    wanted.scrollIntoView({ block: "start" });
  }
}

const byKey = (/** @type {[string, any]} */ [a], /** @type {[string, any]} */ [b]) =>
  a.localeCompare(b, "en", { numeric: true });
const idOf = (kind, name) => `${kind}-${name.replace(/[^\w-]+/g, "-")}`;

/** Parameters by section; those that are being filled, too. */
function sections(parameters, panels) {
  const found = new Map();
  for (const [key, value] of Object.entries(parameters)) {
    const name = key.includes("/") ? key.slice(0, key.indexOf("/")) : "";
    found.set(name, { ...found.get(name), [key]: value });
  }
  for (const [key, panel] of panels) {
    const name = key.replace(/^parameters /, "");
    if (name !== key && panel instanceof ValuesPanel && panel.editing && !found.has(name)) found.set(name, {});
  }
  return [...found].sort(byKey);
}

/** Known fields by their names first, then whatever else a program wrote. */
/** Whether the text of a script is what was changed since its commit; without a commit it is the script itself. */
const isChanges = ({ commit, diff }) => Boolean(commit) || /^(diff --git |--- |Index: )/m.test(String(diff ?? ""));

const fileName = (path) =>
  String(path ?? "")
    .split(/[/\\]/)
    .at(-1) ?? "";

function named(values, fields) {
  const known = new Set(fields.map(([key]) => key));
  return [
    ...fields
      .filter(([key]) => values[key] !== undefined && values[key] !== "")
      .map(([key, label]) => [label, values[key]]),
    ...Object.entries(values)
      .filter(([key]) => !known.has(key))
      .sort(byKey),
  ];
}

const textOfRequirements = (value) =>
  typeof value === "string"
    ? value
    : Object.entries(value)
        .map(([kind, text]) => `# ${kind}\n${text}`)
        .join("\n\n");
