/** Plotly, loaded on first use: 5 MB that the table page never needs. */

let loading = /** @type {Promise<any> | null} */ (null);

/** @returns {Promise<any>} the Plotly object; rejects when the server does not have it */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/static/vendor/plotly.min.js";
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
