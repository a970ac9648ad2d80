/** A task's status: its word and its tone (colour). */

const KNOWN = {
  in_progress: ["running", "running"],
  completed: ["completed", "good"],
  published: ["published", "good"],
  failed: ["failed", "bad"],
  stopped: ["stopped", "warn"],
  created: ["created", "idle"],
  queued: ["queued", "idle"],
};

/** Statuses for the filter, in the order a person looks for them. */
export const STATUSES = ["in_progress", "completed", "failed", "stopped"];

/** @param {string | null | undefined} status */
export const statusWord = (status) => KNOWN[status ?? ""]?.[0] ?? (status || "unknown").replaceAll("_", " ");
/** @param {string | null | undefined} status */
export const statusTone = (status) => KNOWN[status ?? ""]?.[1] ?? "idle";
