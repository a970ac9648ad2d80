/** Plotly, loaded on first use: 5 MB that the table page never needs. */

const ADDRESS = "/static/vendor/plotly.min.js";

let loading = /** @type {Promise<any> | null} */ (null);

/** @returns {Promise<any>} the Plotly object; rejects when the server does not have it */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = ADDRESS;
    script.onload = () => resolve(/** @type {any} */ (window).Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error("Plotly could not be loaded from this server; is the plotly package installed?"));
    };
    document.head.append(script);
  });
  return loading;
}

/**
 * Bring Plotly into the browser's cache without running it: running takes half a second, in which a page
 * with many charts can already show where they will be.
 */
export async function fetchPlotlyAhead() {
  if (loading) return;
  try {
    await (await fetch(ADDRESS, { priority: "low" })).arrayBuffer();
  } catch {
    // plotly() will meet the same trouble and say so.
  }
}
