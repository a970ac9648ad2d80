/**
 * The live feed: one EventSource per page that is being looked at.
 *
 * A browser opens at most six connections to a server over HTTP/1.1, so a page in the background gives its
 * one back and catches up when it is seen again; otherwise a seventh tab would wait for ever.
 */

import { address } from "./api.js";
import { byId, setText } from "./dom.js";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;
// A glance at another tab should not cost a reconnection.
const HIDDEN_GRACE_MS = 15_000;
// A dropped connection that is back at once is nobody's business.
const SAY_LOST_AFTER_MS = 1200;

export class Live {
  /**
   * @param {Record<string, string>} query  of /api/v1/live
   * @param {Record<string, (data: any) => void>} handlers  by event name
   * @param {() => void} onResume  called when the feed is back after a gap, or left something out: fetch what was missed
   */
  constructor(query, handlers, onResume) {
    this.query = query;
    this.handlers = handlers;
    this.onResume = onResume;
    this.source = /** @type {EventSource | null} */ (null);
    this.retryMs = FIRST_RETRY_MS;
    this.retryTimer = 0;
    this.lostTimer = 0;
    this.hiddenTimer = 0;
    this.missed = false;
    this.label = byId("live");
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    // Sleep and network changes: the browser may not notice for minutes that the old connection is dead.
    addEventListener("online", () => this.#reopen());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => event.persisted && this.#reopen());
    if (!document.hidden) this.#open();
    else this.missed = true;
  }

  #open() {
    if (this.source) return;
    clearTimeout(this.retryTimer);
    const source = new EventSource(address("/live", this.query));
    this.source = source;
    source.onopen = () => {
      this.retryMs = FIRST_RETRY_MS;
      clearTimeout(this.lostTimer);
      this.#show("live");
      if (this.missed) this.onResume();
      this.missed = false;
    };
    source.onerror = () => {
      if (this.source !== source) return;
      this.#lost();
    };
    // A page that took too little of the feed for some time (a laptop that slept) is told that it missed something.
    source.addEventListener("resync", () => this.onResume());
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(/** @type {MessageEvent} */ (event).data || "{}")));
    }
  }

  #lost() {
    // EventSource gives up for good on an HTTP error, so retrying is ours in every case.
    this.#close();
    this.missed = true;
    clearTimeout(this.lostTimer);
    this.lostTimer = setTimeout(() => this.#show("lost"), SAY_LOST_AFTER_MS);
    // Jitter: all open pages must not come back in the same instant after a restart.
    this.retryTimer = setTimeout(() => this.#open(), this.retryMs * (0.5 + Math.random()));
    this.retryMs = Math.min(LONGEST_RETRY_MS, this.retryMs * 2);
  }

  #close() {
    clearTimeout(this.retryTimer);
    this.source?.close();
    this.source = null;
  }

  #reopen() {
    this.#close();
    this.missed = true;
    this.retryMs = FIRST_RETRY_MS;
    if (!document.hidden) this.#open();
  }

  #onVisibility() {
    clearTimeout(this.hiddenTimer);
    if (!document.hidden) {
      if (!this.source) this.#reopen();
      return;
    }
    this.hiddenTimer = setTimeout(() => {
      this.#close();
      this.missed = true;
    }, HIDDEN_GRACE_MS);
  }

  /** @param {"live" | "lost"} state */
  #show(state) {
    this.label.hidden = false;
    this.label.dataset.state = state;
    setText(this.label, state === "live" ? "Live" : "Reconnecting…");
    this.label.title = state === "live" ? "This page updates by itself" : "The server cannot be reached; trying again";
  }
}
