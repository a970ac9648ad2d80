/**
 * The Console tab: a window of lines that follows the end, or stays where the reader scrolled to.
 *
 * At most MAX_LINES lines are in the page. Older ones are fetched when the reader nears the top, newer ones
 * near the bottom, and the other end is let go, so a log of millions of lines costs what a short one does.
 */

import { get, isAbort } from "../common/api.js";
import { lineElement } from "./console-lines.js";
import { byId, coalesce, debounce, icon, setText } from "../common/dom.js";
import { count } from "../common/format.js";

const PAGE = 500; // lines a request
const MAX_LINES = 2500;
const NEAR_PX = 400; // from an end of the window at which more is fetched
const AT_END_PX = 30;
const SEARCH_DELAY_MS = 220;
const LIVE_EVERY_MS = 250;

export class Console {
  /**
   * @param {string} taskId
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, onError) {
    this.taskId = taskId;
    this.onError = onError;
    this.box = byId("lines");
    this.search = "";
    this.stream = "";
    this.rank = "";
    this.firstId = 0; // of the window
    this.lastId = 0;
    this.liveId = 0; // the newest that the feed told of
    this.moreBefore = false;
    this.moreAfter = false;
    this.following = true;
    this.loading = false;
    this.skipped = false; // a fetch was wanted while another ran
    this.shown = false;
    this.abort = new AbortController();
    this.followSoon = coalesce(() => this.#follow(), LIVE_EVERY_MS);
    this.#listen();
  }

  /** Start again from the end; when the reader is elsewhere, only look for what is newer. */
  refresh() {
    if (this.following || !this.lastId) return this.#toEnd();
    this.moreAfter = true;
    return this.#showLatest();
  }

  /** @param {number} lastId  the newest line's, from the live feed */
  onLines(lastId) {
    this.liveId = Math.max(this.liveId, lastId);
    if (this.following && this.shown) this.followSoon();
    else this.#showLatest();
  }

  /** The ranks of a task can be read one by one. */
  setTask(record) {
    const found = Object.values(record?.writers ?? {}).filter(
      (writer) => writer?.world_size > 1 && Number.isInteger(writer.rank),
    );
    const ranks = [...new Set(found.map(({ rank }) => rank))].sort((a, b) => a - b);
    const choice = /** @type {HTMLSelectElement} */ (byId("console-rank"));
    if (choice.options.length === ranks.length + 1) return;
    choice.replaceChildren(
      new Option("All ranks", ""),
      ...ranks.map((rank) => new Option(`rank ${rank}`, String(rank))),
    );
    choice.value = this.rank;
    byId("console-ranks").hidden = ranks.length < 2;
    this.box.classList.toggle("with-ranks", ranks.length > 1);
  }

  setShown(shown) {
    this.shown = shown;
    if (!shown || !this.following) return;
    this.#scrollToEnd();
    if (this.liveId > this.lastId && this.lastId) this.followSoon();
  }

  #listen() {
    this.box.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    // A line that wraps differently must not lose the end.
    new ResizeObserver(() => this.following && this.#scrollToEnd()).observe(this.box);
    byId("latest").addEventListener("click", () => this.#toEnd());
    const field = /** @type {HTMLInputElement} */ (byId("console-search"));
    const search = debounce(() => this.#restart({ search: field.value.trim() }), SEARCH_DELAY_MS);
    field.addEventListener("input", search);
    const stream = /** @type {HTMLSelectElement} */ (byId("console-stream"));
    stream.addEventListener("change", () => this.#restart({ stream: stream.value }));
    const rank = /** @type {HTMLSelectElement} */ (byId("console-rank"));
    rank.addEventListener("change", () => this.#restart({ rank: rank.value }));
    for (const [id, name] of [
      ["console-times", "with-times"],
      ["console-wrap", "wrap"],
    ]) {
      const button = byId(id);
      this.box.classList.toggle(name, button.getAttribute("aria-pressed") === "true");
      button.addEventListener("click", () => {
        const on = this.box.classList.toggle(name);
        button.setAttribute("aria-pressed", String(on));
        if (this.following) this.#scrollToEnd();
      });
    }
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "End") this.#toEnd();
    });
  }

  #restart(changes) {
    Object.assign(this, changes);
    this.#toEnd();
  }

  #ask(query) {
    return get(
      `/tasks/${this.taskId}/console`,
      { limit: PAGE, stream: this.stream, search: this.search, rank: this.rank, ...query },
      this.abort.signal,
    );
  }

  /** Run one fetch at a time; a restart aborts it. */
  async #exclusively(action) {
    if (this.loading) {
      this.skipped = true;
      return;
    }
    this.loading = true;
    const { signal } = this.abort;
    try {
      await action(signal);
    } catch (error) {
      if (!isAbort(error)) this.onError(error);
    } finally {
      if (!signal.aborted) this.loading = false;
      // Lines that the feed told of meanwhile: it may have been its last word.
      if (this.skipped && this.following && !this.loading) this.followSoon();
      this.skipped = false;
    }
  }

  #toEnd() {
    this.abort.abort();
    this.abort = new AbortController();
    this.loading = false;
    this.following = true;
    return this.#exclusively(async (signal) => {
      const { lines, more } = await this.#ask({ tail: 1 });
      if (signal.aborted) return;
      this.box.replaceChildren(...this.#elements(lines));
      this.firstId = lines[0]?.id ?? 0;
      this.lastId = lines.at(-1)?.id ?? 0;
      this.moreBefore = more;
      this.moreAfter = false;
      if (!lines.length) this.box.append(emptyNote(this.search || this.stream || this.rank));
      this.#afterChange();
    });
  }

  #follow() {
    if (!this.following) return Promise.resolve();
    if (!this.lastId) return this.#toEnd();
    return this.#exclusively(async (signal) => {
      const { lines, more } = await this.#ask({ after: this.lastId });
      if (signal.aborted || !lines.length) return;
      if (more) {
        // More came than a window holds: what is in between can be scrolled to.
        queueMicrotask(() => this.#toEnd());
        return;
      }
      this.#append(lines);
      if (this.following) this.#trim("start");
      this.#afterChange();
    });
  }

  #older() {
    return this.#exclusively(async (signal) => {
      const { lines, more } = await this.#ask({ before: this.firstId, tail: 1 });
      if (signal.aborted) return;
      this.moreBefore = more;
      if (!lines.length) return;
      const height = this.box.scrollHeight;
      const top = this.box.scrollTop;
      this.box.prepend(...this.#elements(lines));
      this.firstId = lines[0].id;
      this.box.scrollTop = top + this.box.scrollHeight - height;
      this.#trim("end");
      this.#showCount();
    });
  }

  #newer() {
    return this.#exclusively(async (signal) => {
      const { lines, more } = await this.#ask({ after: this.lastId });
      if (signal.aborted) return;
      this.moreAfter = more;
      this.#append(lines);
      this.#trim("start");
      this.#showLatest();
      this.#showCount();
    });
  }

  #append(lines) {
    this.box.append(...this.#elements(lines));
    this.lastId = lines.at(-1)?.id ?? this.lastId;
  }

  #elements(lines) {
    return lines.map((line) => lineElement(line, this.search));
  }

  /** Let go of lines beyond MAX_LINES at one end, without moving what the reader looks at. */
  #trim(end) {
    const excess = this.box.children.length - MAX_LINES;
    if (excess <= 0) return;
    const gone = end === "start" ? [...this.box.children].slice(0, excess) : [...this.box.children].slice(-excess);
    const height = this.box.scrollHeight;
    const top = this.box.scrollTop;
    for (const line of gone) line.remove();
    if (end === "start") {
      this.moreBefore = true;
      this.firstId = Number(this.box.firstElementChild?.getAttribute("data-id"));
      if (!this.following) this.box.scrollTop = top - (height - this.box.scrollHeight);
    } else {
      this.moreAfter = true;
      this.lastId = Number(this.box.lastElementChild?.getAttribute("data-id"));
    }
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    if (!clientHeight) return;
    const fromEnd = scrollHeight - scrollTop - clientHeight;
    const wasFollowing = this.following;
    this.following = fromEnd <= AT_END_PX && !this.moreAfter;
    if (this.following && !wasFollowing) this.followSoon();
    this.#showLatest();
    if (scrollTop < NEAR_PX && this.moreBefore) this.#older();
    else if (fromEnd < NEAR_PX && this.moreAfter) this.#newer();
  }

  #afterChange() {
    if (this.following) this.#scrollToEnd();
    this.#showLatest();
    this.#showCount();
  }

  #scrollToEnd() {
    this.box.scrollTop = this.box.scrollHeight;
  }

  #showLatest() {
    const button = byId("latest");
    button.hidden = this.following;
    if (this.following) return;
    const behind = this.liveId > this.lastId || this.moreAfter;
    const words = behind ? "New lines: jump to latest" : "Jump to latest";
    if (button.textContent !== words) button.replaceChildren(icon("down"), words);
  }

  #showCount() {
    const lines = this.box.querySelectorAll(".line").length;
    const rest = this.moreBefore || this.moreAfter ? "; more load as you scroll" : "";
    setText(byId("console-count"), lines ? `${count(lines)} ${lines === 1 ? "line" : "lines"} here${rest}` : "");
  }
}

function emptyNote(filtered) {
  const note = document.createElement("p");
  note.className = "muted none";
  note.textContent = filtered ? "No line matches." : "Nothing printed yet.";
  return note;
}
