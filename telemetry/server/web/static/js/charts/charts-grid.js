/**
 * A grid of charts of which only those near the window exist: 20,000 cost what 20 do.
 *
 * Cards have one height, so a card's place follows from its number alone. Near cards are made and put in
 * place; an IntersectionObserver tells them when they are really seen.
 */

import { ChartCard } from "./chart-card.js";

const CARD_HEIGHT = 316;
const GAP = 16;
const MIN_WIDTH = 430;
const NEAR_PX = 500;

export class ChartsGrid {
  /**
   * @param {HTMLElement} element
   * @param {import("./chart-card.js").Host} host
   */
  constructor(element, host) {
    this.element = element;
    this.host = host;
    this.groups = /** @type {import("./series.js").Group[]} */ ([]);
    this.cards = /** @type {Map<string, ChartCard>} */ (new Map());
    this.frame = 0;
    this.width = 0;
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) this.#cardOf(entry.target)?.setVisible(entry.isIntersecting);
      },
      { rootMargin: "120px" },
    );
    const later = () => (this.frame ||= requestAnimationFrame(() => this.#place()));
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
    new ResizeObserver(later).observe(element);
    document.addEventListener("themechange", () => this.redraw());
  }

  /** @param {import("./series.js").Group[]} groups  what to show, in order */
  show(groups) {
    this.groups = groups;
    for (const group of groups) this.cards.get(group.key)?.setGroup(group);
    this.#place();
  }

  /** @param {Set<string>} keys  charts with new points */
  touch(keys) {
    for (const [key, card] of this.cards) if (keys.has(key)) card.touch();
  }

  /** A setting changed: fetch what is seen again. */
  reload() {
    for (const card of this.cards.values()) {
      card.stale = true;
      if (card.visible) card.load();
    }
  }

  redraw() {
    for (const card of this.cards.values()) card.redraw();
  }

  #cardOf(element) {
    for (const card of this.cards.values()) if (card.element === element) return card;
    return undefined;
  }

  #place() {
    this.frame = 0;
    const width = this.element.clientWidth;
    if (!width) return; // its tab is not shown
    const columns = Math.max(1, Math.floor((width + GAP) / (MIN_WIDTH + GAP)));
    const cardWidth = (width - (columns - 1) * GAP) / columns;
    const rows = Math.ceil(this.groups.length / columns);
    this.element.style.height = `${Math.max(0, rows * (CARD_HEIGHT + GAP) - GAP)}px`;
    const top = this.element.getBoundingClientRect().top;
    const firstRow = Math.max(0, Math.floor((-top - NEAR_PX) / (CARD_HEIGHT + GAP)));
    const lastRow = Math.floor((-top + innerHeight + NEAR_PX) / (CARD_HEIGHT + GAP));
    const near = this.groups.slice(firstRow * columns, (lastRow + 1) * columns);
    this.#drop(new Set(near.map(({ key }) => key)));
    let before = /** @type {Element | null} */ (null);
    near.forEach((group, index) => {
      const card = this.cards.get(group.key) ?? this.#make(group);
      const at = firstRow * columns + index;
      card.element.style.top = `${Math.floor(at / columns) * (CARD_HEIGHT + GAP)}px`;
      card.element.style.left = `${(at % columns) * (cardWidth + GAP)}px`;
      card.element.style.width = `${cardWidth}px`;
      card.element.style.height = `${CARD_HEIGHT}px`;
      // In reading order, for the Tab key.
      const next = before ? before.nextElementSibling : this.element.firstElementChild;
      if (next !== card.element) this.element.insertBefore(card.element, next);
      before = card.element;
    });
    if (width !== this.width) this.redraw();
    this.width = width;
  }

  #make(group) {
    const card = new ChartCard(group, this.host);
    this.cards.set(group.key, card);
    this.seen.observe(card.element);
    return card;
  }

  #drop(keep) {
    for (const [key, card] of this.cards) {
      // What holds the focus stays, or the keyboard would lose its place.
      if (
        keep.has(key) ||
        (card.element.contains(document.activeElement) && this.groups.some((group) => group.key === key))
      )
        continue;
      this.seen.unobserve(card.element);
      card.destroy();
      this.cards.delete(key);
    }
  }
}
