/** The smoothing slider: half-lives in the units of the x axis. Position 0 is off. */

const ITERATIONS = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000];
const SECONDS = [0, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400];

export const POSITIONS = ITERATIONS.length;

/**
 * @param {number} position
 * @param {"iteration" | "time"} x
 * @returns {number | undefined} iterations or milliseconds, as the API's half_life takes it
 */
export function halfLife(position, x) {
  if (!position) return undefined;
  return x === "time" ? SECONDS[position] * 1000 : ITERATIONS[position];
}

/** The same for people: "off", "half-life 50", "half-life 2 min". */
export function smoothingText(position, x) {
  if (!position) return "off";
  if (x === "iteration") return `half-life ${ITERATIONS[position].toLocaleString("en")}`;
  const seconds = SECONDS[position];
  if (seconds < 60) return `half-life ${seconds} s`;
  return seconds < 3600 ? `half-life ${seconds / 60} min` : `half-life ${seconds / 3600} h`;
}
