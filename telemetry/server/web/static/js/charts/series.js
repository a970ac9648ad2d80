/** A task's series: fetched once, then kept up to date by the live feed; grouped into charts by title. */

import { get } from "../common/api.js";
import { coalesce } from "../common/dom.js";

const COLORS = 10;
// A run that makes up names as it goes must not make each open page fetch them all each second.
const REFETCH_EVERY_MS = 2000;

/**
 * @typedef {{id: number, kind: string, title: string, series: string, label: string, rank: number | null, unit: string, count: number,
 *   last: number | string | null, last_iteration: number, max: number | null, min: number | null, non_finite: number,
 *   ranks?: Series[]}} Series  with `ranks` it stands for the same series of several ranks, as a band
 * @typedef {{key: string, title: string, unit: string, series: Series[], bands: Series[] | null}} Group  one chart; `bands` if it has ranks
 */

export class SeriesTable {
  /**
   * @param {string} taskId
   * @param {"scalar" | "resource"} kind
   * @param {() => void} onGroups  called after the groups changed (a new series, or the first answer)
   * @param {(error: Error) => void} onError
   */
  constructor(taskId, kind, onGroups, onError) {
    this.taskId = taskId;
    this.kind = kind;
    this.groups = /** @type {Group[]} */ ([]);
    this.loaded = false;
    this.byId = /** @type {Map<number, Series>} */ (new Map());
    this.groupOf = /** @type {Map<number, Group>} */ (new Map());
    this.others = /** @type {Set<number>} */ (new Set());
    this.colors = /** @type {Map<string, number>} */ (new Map());
    this.hosts = /** @type {Map<number, string>} */ (new Map());
    this.refetch = coalesce(() => this.#fetch(onGroups).catch(onError), REFETCH_EVERY_MS);
  }

  async #fetch(onGroups) {
    const unknown = [...this.others];
    const { series } = await get(`/tasks/${this.taskId}/series`, { kind: this.kind });
    const groups = new Map();
    this.byId.clear();
    this.groupOf.clear();
    for (const one of series) {
      const key = this.kind === "resource" ? `${one.title}\n${one.unit}` : one.title;
      let group = groups.get(key);
      if (!group) groups.set(key, (group = { key, title: one.title, unit: one.unit, series: [], bands: null }));
      one.label = one.series;
      group.series.push(one);
      this.byId.set(one.id, one);
      this.groupOf.set(one.id, group);
    }
    // Ids of the other kind come with the live feed too; what is still unknown after asking is not ours.
    this.others = new Set(unknown.filter((id) => !this.byId.has(id)));
    this.groups = inOrder([...groups.values()], (group) => `${group.title}\0${group.unit}`);
    for (const group of this.groups) this.#arrange(group);
    this.#chooseColors();
    this.loaded = true;
    onGroups();
  }

  /** Put a group's series in order; several ranks of one name become a band, and each is named by its rank or host. */
  #arrange(group) {
    if (group.series.length < 2) return;
    const byName = new Map();
    for (const one of group.series) byName.set(one.series, [...(byName.get(one.series) ?? []), one]);
    group.series = inOrder(group.series, ({ series, rank }) => `${series}\0${rank ?? ""}`);
    if (byName.size === group.series.length) return;
    for (const one of group.series)
      if (one.rank !== null && byName.get(one.series).length > 1)
        one.label = `${one.series} · ${this.#place(one.rank)}`;
    group.bands = inOrder([...byName.values()].map(bandOf), ({ series }) => series);
  }

  /** Machines are told apart by their names, where those differ. */
  #place(rank) {
    const host = this.kind === "resource" ? this.hosts.get(rank) : undefined;
    const alone = host !== undefined && [...this.hosts.values()].filter((name) => name === host).length === 1;
    return alone ? host : `rank ${rank}`;
  }

  /**
   * Learn which rank runs where, from the task's record.
   * @param {Record<string, {rank?: number | null, host?: string, local_rank?: number, parent_pid?: number}>} writers
   */
  setWriters(writers) {
    const before = this.hosts.size;
    this.hosts.clear();
    // Of each machine the process that samples it: two of one machine would hide its name.
    for (const { rank, host, local_rank: local, parent_pid: parent } of Object.values(writers)) {
      if (typeof rank === "number" && host && !parent && !local) this.hosts.set(rank, host);
    }
    if (this.hosts.size !== before && this.loaded) this.refetch();
  }

  /** A series name that several charts share ("train") has one colour in all of them. */
  #chooseColors() {
    const seen = new Map();
    for (const group of this.groups)
      for (const { series } of group.bands ?? group.series) seen.set(series, (seen.get(series) ?? 0) + 1);
    for (const [name, times] of seen) {
      if (times > 1 && !this.colors.has(name)) this.colors.set(name, this.colors.size % COLORS);
    }
  }

  /**
   * @param {Group} group
   * @returns {number[]} for each of its series the number of its colour (--series-N)
   */
  colorsOf(group) {
    const taken = new Set(group.series.map(({ label }) => this.colors.get(label)).filter((n) => n !== undefined));
    let next = 0;
    return group.series.map(({ label }) => {
      const shared = this.colors.get(label);
      if (shared !== undefined) return shared;
      while (taken.has(next % COLORS) && next < COLORS) next += 1;
      next += 1;
      return (next - 1) % COLORS;
    });
  }

  /**
   * Take the live feed's `points`.
   * @param {Record<string, Partial<Series>>} updates  by series id
   * @returns {Set<string>} keys of the charts that have new points
   */
  apply(updates) {
    const changed = new Set();
    for (const [id, update] of Object.entries(updates)) {
      const series = this.byId.get(Number(id));
      if (series) {
        Object.assign(series, update);
        changed.add(/** @type {Group} */ (this.groupOf.get(series.id)).key);
      } else if (!this.others.has(Number(id))) {
        this.others.add(Number(id));
        this.refetch();
      }
    }
    return changed;
  }
}

/** @param {Series[]} ranks  of one series @returns {Series} what stands for them all, live */
export function bandOf(ranks) {
  if (ranks.length === 1) return ranks[0];
  const numbers = (name) => ranks.map((one) => one[name]).filter((value) => typeof value === "number");
  const { id, kind, title, series, unit } = ranks[0];
  return {
    id,
    kind,
    title,
    series,
    label: series,
    rank: null,
    unit,
    ranks,
    get count() {
      return numbers("count").reduce((sum, value) => sum + value, 0);
    },
    get non_finite() {
      return numbers("non_finite").reduce((sum, value) => sum + value, 0);
    },
    get last() {
      const last = numbers("last");
      return last.length ? last.reduce((sum, value) => sum + value / last.length, 0) : ranks[0].last;
    },
    get last_iteration() {
      return Math.max(...numbers("last_iteration"));
    },
    get min() {
      return numbers("min").reduce(
        (least, value) => Math.min(least ?? value, value),
        /** @type {number | null} */ (null),
      );
    },
    get max() {
      return numbers("max").reduce(
        (most, value) => Math.max(most ?? value, value),
        /** @type {number | null} */ (null),
      );
    },
  };
}

/**
 * Sort by name, numbers in it by their value, capitals beside small letters. Intl.Collator does the same and
 * takes a second for 20,000 names; comparing prepared keys takes a twentieth of that.
 * @template T
 * @param {T[]} items
 * @param {(item: T) => string} name
 */
export function inOrder(items, name) {
  const keyed = items.map((item) => ({
    item,
    key: name(item)
      .toLowerCase()
      .replace(/\d+/g, (digits) => digits.padStart(12, "0")),
  }));
  keyed.sort((a, b) => (a.key < b.key ? -1 : Number(a.key > b.key)));
  return keyed.map(({ item }) => item);
}
