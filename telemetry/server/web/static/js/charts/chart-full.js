/** One chart over the whole window. */

import { ChartCard } from "./chart-card.js";
import { byId } from "../common/dom.js";

const LIVE_EVERY_MS = 1000;

/**
 * Open a chart in full screen until Escape or its close button. It shares its zoom with the card it came from.
 * @param {import("./series.js").Group} group
 * @param {import("./chart-card.js").Host} host
 * @param {() => void} onClosed
 */
export function openFull(group, host, onClosed) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("full"));
  const card = new ChartCard(snapshot(group, host), { ...host, openFull: null }, () => dialog.close());
  const redraw = () => card.redraw();
  const resized = new ResizeObserver(redraw);
  const timer = setInterval(() => {
    const moved = card.group.series.some((one) => host.table.byId.get(one.id)?.count !== one.count);
    if (moved) card.setGroup(snapshot(card.group, host));
  }, LIVE_EVERY_MS);
  dialog.replaceChildren(card.element);
  dialog.showModal();
  card.element.focus();
  resized.observe(card.element);
  document.addEventListener("themechange", redraw);
  card.setVisible(true);
  dialog.addEventListener(
    "close",
    () => {
      clearInterval(timer);
      resized.disconnect();
      document.removeEventListener("themechange", redraw);
      card.destroy();
      onClosed();
    },
    { once: true },
  );
}

/** A copy of the group as it is now, so that its counts can be compared later. */
function snapshot(group, host) {
  const series = group.series.map((one) => ({ ...(host.table.byId.get(one.id) ?? one) }));
  return { ...group, series, bands: host.table.groups.find(({ key }) => key === group.key)?.bands ?? group.bands };
}
