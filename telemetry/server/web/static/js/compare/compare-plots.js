/** Plots of several tasks side by side: for each title and series the figure of each task that has one. */

import { get } from "../common/api.js";
import { byId, el, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { PlotCard, watch } from "../charts/plot-card.js";
import { byTitle } from "../charts/plots.js";

const MOST_ROWS = 200;

export class ComparedPlots {
  /**
   * @param {import("./compare-page.js").Compared[]} tasks
   * @param {(error: Error) => void} onError
   */
  constructor(tasks, onError) {
    this.tasks = tasks;
    this.onError = onError;
    this.cards = /** @type {Map<string, PlotCard>} */ (new Map());
    this.drawn = "";
  }

  async refresh() {
    try {
      const answers = await Promise.all(this.tasks.map(({ id }) => get(`/tasks/${id}/plots`, { figures: "0" })));
      this.#draw(answers.map(({ plots }) => byTitle(plots)));
    } catch (error) {
      this.onError(/** @type {Error} */ (error));
    }
  }

  #draw(found) {
    const names = new Map();
    for (const titles of found)
      for (const [title, series] of titles)
        for (const name of series.keys()) names.set(`${title}\n${name}`, [title, name]);
    const state = JSON.stringify([
      [...names.keys()],
      found.map((titles) =>
        [...titles].map(([title, series]) => [title, [...series].map(([name, entries]) => [name, entries.length])]),
      ),
    ]);
    if (state === this.drawn) return;
    this.drawn = state;
    for (const card of this.cards.values()) card.destroy();
    this.cards.clear();
    const sections = [...names.values()]
      .sort((a, b) => a.join("\n").localeCompare(b.join("\n"), "en", { numeric: true }))
      .slice(0, MOST_ROWS)
      .map(([title, series]) =>
        el(
          "section",
          { class: "plot-section", "aria-label": `${title} ${series}`, "data-title": title },
          el("h2", {}, series && series !== title ? `${title} / ${series}` : title),
          el(
            "div",
            { class: "plot-grid" },
            ...this.tasks.flatMap((task, index) => {
              const entries = found[index].get(title)?.get(series);
              if (!entries) return [];
              const card = new PlotCard({
                taskId: task.id,
                title,
                series,
                label: task.label,
                entries,
                color: task.color,
              });
              this.cards.set(`${task.id}\n${title}\n${series}`, card);
              watch(card);
              return [card.element];
            }),
          ),
        ),
      );
    byId("compared-plots").replaceChildren(...sections);
    setText(byId("plots-note"), names.size > MOST_ROWS ? `The first ${count(MOST_ROWS)} of ${count(names.size)}.` : "");
    byId("no-plots").hidden = sections.length > 0;
    setText(byId("no-plots"), "None of these tasks has plots.");
  }
}
