/** Numbers, times and sizes as people read them. Times are Unix milliseconds. */

const NONE = "–";
const integer = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exactTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hour12: false,
});
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

/** @param {number | null | undefined} value  12,345 */
export const count = (value) => (value === null || value === undefined ? NONE : integer.format(value));

/** @param {number | null | undefined} value  12.3K from 10,000 on */
export function shortCount(value) {
  if (value === null || value === undefined) return NONE;
  return Math.abs(value) < 10_000 ? integer.format(value) : compact.format(value);
}

/**
 * A measured number: five significant digits, exponents at the ends. "NaN" and "Infinity" come as strings.
 * @param {number | string | null | undefined} value
 */
export function measure(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string") return { Infinity: "∞", "-Infinity": "−∞" }[value] ?? value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 && Number.isInteger(value) && size < 1e12) return integer.format(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(3).replace("-", "−").replace("e+", "e");
  if (Number.isInteger(value)) return integer.format(value).replace("-", "−");
  return String(Number(value.toPrecision(5))).replace("-", "−");
}

/** @param {unknown} value  whether it is one of the three that are no number */
export const isNonFinite = (value) => value === "NaN" || value === "Infinity" || value === "-Infinity";

/** @param {number | null | undefined} ms  in the reader's time zone */
export const exact = (ms) => (ms ? exactTime.format(ms) : "");
/** @param {number} ms  13:04:05.123 */
export const clockTime = (ms) => clock.format(ms);

/**
 * "3 min ago"; the date alone from 30 days on.
 * @param {number | null | undefined} ms
 * @param {number} now
 */
export function relative(ms, now) {
  if (!ms) return NONE;
  const seconds = Math.round((now - ms) / 1000);
  if (seconds < -5) return exact(ms);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  if (hours < 24) return `${hours} h ago`;
  const days = Math.round(hours / 24);
  if (days < 30) return days === 1 ? "yesterday" : `${days} days ago`;
  return day.format(ms);
}

/**
 * "2 h 05 min": the two largest units.
 * @param {number | null | undefined} ms
 */
export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms) || ms < 0) return NONE;
  const seconds = Math.floor(ms / 1000);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
  return `${Math.floor(seconds / 86_400)} d ${two(Math.floor((seconds % 86_400) / 3600))} h`;
}

/** How long a task has run, or ran. */
export function taskDuration(task, now) {
  if (!task.started_unix_ms) return null;
  const end =
    task.ended_unix_ms ?? (task.status === "in_progress" || task.status === "stalled" ? now : task.last_update_unix_ms);
  return end ? Math.max(0, end - task.started_unix_ms) : null;
}

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/**
 * The binary unit in which `largest` bytes reads well, and how many bytes it is.
 * @param {number} largest
 * @returns {{name: string, factor: number}}
 */
export function byteUnit(largest) {
  const size = Math.abs(largest) || 1;
  const power = Math.min(BINARY.length - 1, Math.max(0, Math.floor(Math.log2(size) / 10)));
  return { name: BINARY[power], factor: 2 ** (10 * power) };
}

/** @param {number | null | undefined} bytes  1.4 GiB */
export function bytes(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  const unit = byteUnit(bytes);
  const value = bytes / unit.factor;
  return `${unit.factor === 1 ? value : value.toFixed(value < 10 ? 2 : 1)} ${unit.name}`;
}
