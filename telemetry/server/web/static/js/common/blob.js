/** Bytes that a task refers to: where they are, whether they have arrived, and what a browser can show of them. */

import { address } from "./api.js";
import { el, icon } from "./dom.js";
import { bytes } from "./format.js";

const BLOB = /^blob:([0-9a-f]{64})$/;
// What the server gives inline (blob_api.py); everything else it sends as a download only.
const IMAGES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"]);
const PLAYED = new Set([
  "audio/mpeg",
  "audio/wav",
  "audio/x-wav",
  "audio/ogg",
  "audio/flac",
  "audio/mp4",
  "audio/webm",
  "video/mp4",
  "video/webm",
  "video/ogg",
]);
const STATES = {
  pending: ["on its way", "warn", "Its bytes have not arrived yet"],
  failed: ["failed", "bad", "Its bytes could not be stored"],
};

/**
 * @param {string} taskId
 * @param {string} uri  of an artifact, a model or a medium
 * @param {boolean} [inline]  to be shown, not downloaded
 * @returns {string} an address on this server; "" where the bytes are elsewhere
 */
export function blobAddress(taskId, uri, inline = false) {
  const sha256 = BLOB.exec(uri ?? "")?.[1];
  return sha256 ? address(`/tasks/${taskId}/blobs/${sha256}`, { inline: inline ? "1" : "" }) : "";
}

/** @param {string} contentType */
export function kindOf(contentType) {
  const word = (typeof contentType === "string" ? contentType : "").split(";")[0].trim().toLowerCase();
  if (IMAGES.has(word)) return "image";
  return PLAYED.has(word) ? word.split("/")[0] : "file";
}

/** A badge that says that bytes are not there (yet); null where they are. */
export function stateBadge(state, error) {
  const [word, tone, hint] = STATES[state] ?? [];
  return word ? el("span", { class: `badge ${tone}`, title: error || hint }, word) : null;
}

/**
 * A link that downloads the bytes, or leads to where they are; a text where a browser cannot get them.
 * @param {string} taskId
 * @param {{uri?: string, state?: string, filename?: string, size_bytes?: number}} entry
 * @param {string} name  what it is, for who cannot see
 */
export function downloadLink(taskId, entry, name) {
  const uri = typeof entry.uri === "string" ? entry.uri : "";
  const here = blobAddress(taskId, uri);
  if (here) {
    if (entry.state && entry.state !== "stored") return null;
    const link = el("a", {
      class: "button small download",
      href: here,
      download: entry.filename || true,
      "aria-label": `Download ${name}`,
    });
    link.append(icon("download"), entry.size_bytes ? bytes(entry.size_bytes) : "Download");
    return link;
  }
  if (/^https?:\/\//i.test(uri))
    return el(
      "a",
      {
        class: "button small download",
        href: uri,
        target: "_blank",
        rel: "noopener noreferrer",
        "aria-label": `Open ${name} where it is`,
      },
      "Open",
    );
  return null;
}
