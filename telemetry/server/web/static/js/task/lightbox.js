/** An image over the whole window: arrows go to the others, + and - enlarge, Escape leaves. */

import { blobAddress, downloadLink } from "../common/blob.js";
import { byId, el, iconButton, setText } from "../common/dom.js";
import { count } from "../common/format.js";

const STEP = 1.5;
const MOST = 16;

/**
 * @param {string} taskId
 * @param {any[]} entries  images, in the order of the page
 * @param {any} first  the one to begin with
 */
export function openLightbox(taskId, entries, first) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("lightbox"));
  let index = Math.max(
    0,
    entries.findIndex(({ uri, series }) => uri === first.uri && series === first.series),
  );
  let zoom = 1;
  const image = /** @type {HTMLImageElement} */ (el("img", { alt: "" }));
  const stage = el("div", { class: "lightbox-stage", tabindex: 0, "aria-label": "Image" }, image);
  const title = el("span", { class: "lightbox-title" });
  const size = el("span", { class: "muted" });
  const actions = el("span", { class: "lightbox-actions" });
  const enlarge = (factor) => {
    zoom = factor === 0 ? 1 : Math.min(MOST, Math.max(1, zoom * factor));
    image.style.width = zoom === 1 ? "" : `${zoom * 100}%`;
    image.classList.toggle("zoomed", zoom > 1);
  };
  const show = (next) => {
    index = (next + entries.length) % entries.length;
    const entry = entries[index];
    enlarge(0);
    image.src = blobAddress(taskId, entry.uri, true);
    image.alt = `${entry.title} ${entry.series}, iteration ${entry.iteration}`;
    setText(
      title,
      `${entry.title} / ${entry.series} · iteration ${count(entry.iteration)}${entries.length > 1 ? ` · ${index + 1} of ${entries.length}` : ""}`,
    );
    const link = downloadLink(taskId, entry, entry.filename || entry.title);
    actions.replaceChildren(...(link ? [link] : []));
  };
  image.addEventListener("load", () => setText(size, `${image.naturalWidth} × ${image.naturalHeight}`));
  image.addEventListener("click", () => enlarge(zoom > 1 ? 0 : 2));
  const onKey = (event) => {
    const act = {
      ArrowLeft: () => show(index - 1),
      ArrowRight: () => show(index + 1),
      Home: () => show(0),
      End: () => show(entries.length - 1),
      "+": () => enlarge(STEP),
      "=": () => enlarge(STEP),
      "-": () => enlarge(1 / STEP),
      0: () => enlarge(0),
    }[event.key];
    // Enlarged, the arrows move the picture.
    if (!act || event.ctrlKey || event.metaKey || event.altKey || (zoom > 1 && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  };
  const many = entries.length > 1;
  dialog.replaceChildren(
    el(
      "header",
      {},
      title,
      size,
      el("span", { class: "spacer" }),
      actions,
      iconButton("close", "Close (Escape)", () => dialog.close()),
    ),
    stage,
    ...(many
      ? [
          el(
            "span",
            { class: "lightbox-previous" },
            iconButton("previous", "Previous image", () => show(index - 1)),
          ),
          el(
            "span",
            { class: "lightbox-next" },
            iconButton("next", "Next image", () => show(index + 1)),
          ),
        ]
      : []),
  );
  show(index);
  dialog.addEventListener("keydown", onKey);
  dialog.addEventListener(
    "close",
    () => {
      dialog.removeEventListener("keydown", onKey);
      dialog.replaceChildren();
    },
    { once: true },
  );
  dialog.showModal();
  stage.focus();
}
