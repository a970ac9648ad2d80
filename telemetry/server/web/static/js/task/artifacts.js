/** The Artifacts tab: artifacts, models and saved files, with preview and download. */

import { ApiError, get } from "../common/api.js";
import { blobAddress, downloadLink, kindOf, stateBadge } from "../common/blob.js";
import { arrange, byId, coalesce, copyText, el, iconButton } from "../common/dom.js";
import * as format from "../common/format.js";
import { valueText } from "../common/typed.js";

const SAVED_EVERY_MS = 1500;
// A preview is read by a person; larger images are downloaded.
const MAX_IMAGE_BYTES = 20 * 1024 * 1024;

export class Artifacts {
  /**
   * @param {string} taskId
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, onError) {
    this.taskId = taskId;
    this.record = /** @type {any} */ (null);
    this.counts = /** @type {any} */ ({});
    this.saved = /** @type {any[]} */ ([]);
    this.detail = "";
    this.items = /** @type {Map<string, {state: string, element: HTMLElement}>} */ (new Map());
    this.names = /** @type {Map<string, Promise<string>>} */ (new Map());
    this.refresh = coalesce(async () => {
      try {
        this.saved = (await get(`/tasks/${taskId}/models`)).models;
        this.#draw();
      } catch (error) {
        onError(/** @type {Error} */ (error));
      }
    }, SAVED_EVERY_MS);
  }

  /** @param {any} task  fetched again */
  setTask(task) {
    this.record = task.record ?? {};
    this.counts = task.counts ?? {};
    this.#draw();
  }

  /** Open an artifact or model by its name (`#artifacts/weights`), now or when it is there. */
  show(detail) {
    this.detail = detail;
    this.#jump();
  }

  #draw() {
    if (!this.record) return;
    const { artifacts = {}, output_models: outputs = {}, input_models: inputs = {} } = this.record;
    const groups = [
      this.#group(
        "Artifacts",
        Object.entries(artifacts)
          .sort(byName)
          .map(([name, entry]) => this.#item("artifact", name, name, entry, () => this.#artifact(entry))),
      ),
      this.#group(
        "Output models",
        Object.entries(outputs)
          .sort(byTime)
          .map(([id, entry]) => this.#item("output", id, entry?.name || id, entry, () => this.#model(id, entry))),
      ),
      this.#group(
        "Input models",
        Object.entries(inputs)
          .sort(byTime)
          .map(([id, entry]) => this.#item("input", id, entry?.name || id, entry, () => this.#model(id, entry))),
      ),
      savedPanel(this.saved, this.counts.models),
    ].filter((group) => group !== null);
    // Panels are made anew, the items in them kept: an open one stays open.
    byId("artifacts").replaceChildren(...groups);
    byId("no-artifacts").hidden = groups.length > 0;
    this.#jump();
  }

  #group(title, items) {
    if (!items.length) return null;
    const list = el("div", { class: "items" });
    arrange(list, items);
    return el(
      "section",
      { class: "panel", "aria-label": title },
      el(
        "header",
        { class: "panel-head" },
        el("h2", {}, `${title} `, el("span", { class: "count" }, format.count(items.length))),
      ),
      list,
    );
  }

  /** One line that unfolds; made again only where something changed. */
  #item(kind, key, name, entry, inside) {
    const id = `${kind} ${key}`;
    const state = JSON.stringify(entry);
    const known = this.items.get(id);
    if (known?.state === state) return known.element;
    const title = el("span", { class: "item-name" }, name);
    const facts = [entry?.type, entry?.framework].filter(Boolean).map((word) => el("span", { class: "badge" }, word));
    const iteration =
      typeof entry?.iteration === "number"
        ? el("span", { class: "muted" }, `iteration ${format.count(entry.iteration)}`)
        : null;
    const time = entry?.time_unix_ns
      ? el("span", { class: "muted item-time" }, format.exact(entry.time_unix_ns / 1e6))
      : null;
    const summary = el(
      "summary",
      {},
      title,
      ...facts,
      stateBadge(entry?.state, entry?.error),
      iteration,
      el("span", { class: "spacer" }),
      time,
    );
    const body = el("div", { class: "item-body" });
    const element = el(
      "details",
      { class: "item", "data-name": name, open: Boolean(known?.element.querySelector("details")?.open) },
      summary,
      body,
    );
    const fill = () => element.hasAttribute("open") && !body.children.length && body.append(...inside());
    // What nobody looks at is not made, and its image not fetched.
    element.addEventListener("toggle", fill);
    fill();
    const link = downloadLink(this.taskId, entry ?? {}, name);
    const row = el("div", { class: "item-row" }, element, link);
    this.items.set(id, { state, element: row });
    return row;
  }

  #artifact(entry) {
    return [
      this.#preview(entry),
      definitions([...this.#storage(entry), ["Metadata", plainJson(entry.metadata)], ["Error", entry.error]]),
    ];
  }

  #model(id, entry) {
    const made = entry.task && entry.task !== this.taskId ? this.#taskLink(entry.task) : null;
    return [
      definitions([
        ["Made by", made],
        ["Comment", entry.comment],
        ["Tags", (Array.isArray(entry.tags) ? entry.tags : []).filter((tag) => typeof tag === "string").join(", ")],
        ["Labels", plainJson(entry.labels)],
        ["Local file", entry.path],
        ["Host", entry.path ? entry.host : ""],
        ...this.#storage(entry),
        ["Model id", copyable("model id", id)],
        ["Error", entry.error],
      ]),
      entry.config_text
        ? el(
            "figure",
            { class: "design" },
            el("figcaption", { class: "muted" }, "Configuration"),
            el("pre", { class: "code", tabindex: 0 }, entry.config_text),
          )
        : null,
    ].filter((part) => part !== null);
  }

  /** @returns {[string, any][]} */
  #storage(entry) {
    const elsewhere = typeof entry.uri === "string" && !entry.uri.startsWith("blob:") ? entry.uri : "";
    return [
      ["File", entry.filename],
      ["Size", entry.size_bytes ? `${format.bytes(entry.size_bytes)} (${format.count(entry.size_bytes)} bytes)` : ""],
      ["Content type", entry.content_type],
      ["sha256", entry.sha256 ? copyable("sha256", entry.sha256) : ""],
      ["Where", elsewhere],
      ["State", entry.state],
    ];
  }

  #preview(entry) {
    const source = blobAddress(this.taskId, entry.uri, true);
    if (
      kindOf(entry.content_type) === "image" &&
      source &&
      (entry.state ?? "stored") === "stored" &&
      (entry.size_bytes ?? 0) <= MAX_IMAGE_BYTES
    ) {
      return el(
        "a",
        { href: source, target: "_blank", rel: "noopener", class: "image-preview" },
        el("img", { src: source, loading: "lazy", alt: `Preview of ${entry.filename || "the image"}` }),
      );
    }
    return el("pre", { class: "code preview", tabindex: 0, hidden: !entry.preview }, entry.preview ?? "");
  }

  /** A link to the task that made a model: first by its id, then by its name. */
  #taskLink(id) {
    const link = el("a", { href: `/tasks/${id}#artifacts` }, id);
    const name = this.names.get(id) ?? nameOf(id);
    this.names.set(id, name);
    name.then((text) => link.replaceChildren(text));
    return link;
  }

  #jump() {
    if (!this.detail) return;
    const found = [...byId("artifacts").querySelectorAll("details")].find((item) => item.dataset.name === this.detail);
    if (!found) return;
    this.detail = "";
    found.open = true;
    found.scrollIntoView({ block: "nearest" });
  }
}

async function nameOf(id) {
  try {
    return (await get(`/tasks/${id}`)).name || id;
  } catch (error) {
    return error instanceof ApiError && error.status === 404 ? `${id} (not on this server)` : id;
  }
}

const byName = (/** @type {[string, any]} */ [a], /** @type {[string, any]} */ [b]) =>
  a.localeCompare(b, "en", { numeric: true });
const byTime = ([, a], [, b]) => (b?.time_unix_ns ?? 0) - (a?.time_unix_ns ?? 0);
const plainJson = (value) => (value && Object.keys(value).length ? el("pre", {}, valueText(value, 2)) : "");

function copyable(what, text) {
  const button = iconButton("copy", `Copy ${what}`, () => copyText(button, text));
  return el("span", { class: "copyable" }, el("code", {}, text), button);
}

/** @param {[string, any][]} pairs  those without a value are left out */
function definitions(pairs) {
  const known = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el(
    "dl",
    { class: "definitions" },
    ...known.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]),
  );
}

/** Model files that were seen being written: they stay where they are. */
function savedPanel(saved, total) {
  if (!saved.length) return null;
  const headings = [["Name"], ["Framework"], ["Iteration", true], ["Size", true], ["Saved"], ["Path"]];
  const cellsOf = (model) => [
    model.name,
    model.framework || "–",
    format.count(model.iteration),
    format.bytes(model.size_bytes),
    format.exact(model.unix_ms),
    el("code", {}, model.path),
  ];
  const row = (cells, tag) =>
    el(
      "tr",
      {},
      ...cells.map((cell, index) =>
        el(tag, { scope: tag === "th" ? "col" : null, class: headings[index][1] ? "number" : null }, cell),
      ),
    );
  const hidden = (total ?? 0) - saved.length;
  return el(
    "section",
    { class: "panel", "aria-label": "Saved files" },
    el("header", { class: "panel-head" }, el("h2", {}, "Saved files")),
    el(
      "div",
      { class: "table-box", tabindex: 0 },
      el(
        "table",
        { class: "plain" },
        el(
          "thead",
          {},
          row(
            headings.map(([label]) => label),
            "th",
          ),
        ),
        el("tbody", {}, ...saved.map((model) => row(cellsOf(model), "td"))),
      ),
    ),
    el(
      "p",
      { class: "muted" },
      hidden > 0 ? `${format.count(hidden)} earlier saves are not listed. ` : "",
      "Files that the program wrote, as they were seen; their bytes are not on this server.",
    ),
  );
}
