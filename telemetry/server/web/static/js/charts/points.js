/** Fetching points: charts that ask at the same moment for the same range share one request. */

import { get } from "../common/api.js";

const GATHER_MS = 12;
const MAX_IDS = 100; // what the API answers in one request
const MAX_IN_FLIGHT = 3; // a browser has six connections to a server, and the live feed holds one

/**
 * @typedef {{x: "iteration" | "time", from?: number, to?: number, max_samples: number, half_life?: number,
 *   attempts?: "all", bands?: boolean}} Range
 * @typedef {{id: number, count: number, exact: boolean, x: number[], y: (number | null)[], smooth: (number | null)[] | null,
 *   non_finite: [number, string][], non_finite_count: number, mean?: number[], low?: number[], high?: number[]}} PointsOf
 * @typedef {{ids: number[], signal: AbortSignal, resolve: (points: Map<number, PointsOf>) => void, reject: (error: unknown) => void}} Ask
 */

export class Points {
  /** @param {string} taskId */
  constructor(taskId) {
    this.taskId = taskId;
    this.waiting = /** @type {Map<string, {range: Range, asks: Ask[]}>} */ (new Map());
    this.queue = /** @type {(() => Promise<void>)[]} */ ([]);
    this.inFlight = 0;
    this.timer = 0;
  }

  /**
   * @param {number[]} ids
   * @param {Range} range
   * @param {AbortSignal} signal  a request that nobody waits for any more is not sent
   * @returns {Promise<Map<number, PointsOf>>}
   */
  fetch(ids, range, signal) {
    return new Promise((resolve, reject) => {
      const key = JSON.stringify(range);
      const entry = this.waiting.get(key) ?? { range, asks: [] };
      entry.asks.push({ ids, signal, resolve, reject });
      this.waiting.set(key, entry);
      this.timer ||= setTimeout(() => this.#send(), GATHER_MS);
    });
  }

  #send() {
    this.timer = 0;
    for (const { range, asks } of this.waiting.values()) {
      let part = /** @type {Ask[]} */ ([]);
      let size = 0;
      for (const ask of asks) {
        if (part.length && size + ask.ids.length > MAX_IDS) {
          this.#enqueue(range, part);
          part = [];
          size = 0;
        }
        part.push(ask);
        size += ask.ids.length;
      }
      if (part.length) this.#enqueue(range, part);
    }
    this.waiting.clear();
  }

  #enqueue(range, asks) {
    this.queue.push(() => this.#request(range, asks));
    this.#pump();
  }

  #pump() {
    while (this.inFlight < MAX_IN_FLIGHT && this.queue.length) {
      this.inFlight += 1;
      this.queue
        .shift()?.()
        .finally(() => {
          this.inFlight -= 1;
          this.#pump();
        });
    }
  }

  async #request(range, asks) {
    const wanted = asks.filter((ask) => !ask.signal.aborted);
    for (const ask of asks) if (ask.signal.aborted) ask.reject(new DOMException("no longer wanted", "AbortError"));
    if (!wanted.length) return;
    const ids = [...new Set(wanted.flatMap((ask) => ask.ids))];
    const { bands, ...query } = range;
    try {
      const found = new Map();
      for (let at = 0; at < ids.length; at += MAX_IDS) {
        const answer = await get(`/tasks/${this.taskId}/${bands ? "bands" : "points"}`, {
          series: ids.slice(at, at + MAX_IDS).join(","),
          ...query,
        });
        for (const one of answer.series) found.set(one.id, one);
      }
      for (const ask of wanted) ask.resolve(found);
    } catch (error) {
      for (const ask of wanted) ask.reject(error);
    }
  }
}
