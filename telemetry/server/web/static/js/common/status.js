/** A task's status: its word and its tone (colour). */

const KNOWN = {
  in_progress: ["running", "running"],
  completed: ["completed", "good"],
  published: ["published", "good"],
  failed: ["failed", "bad"],
  stopped: ["stopped", "warn"],
  preempted: ["preempted", "warn"],
  stalled: ["stalled", "warn"],
  lost: ["lost", "bad"],
  created: ["created", "idle"],
  queued: ["queued", "idle"],
};

/** Statuses for the filter, in the order a person looks for them. */
export const STATUSES = ["in_progress", "stalled", "lost", "completed", "failed", "stopped", "preempted"];

/** What a status means that follows from time, for those who meet it the first time. */
export const STATUS_HINTS = {
  stalled: "It runs, and has reported nothing for a minute",
  lost: "Nothing has come from it for 75 seconds: it was killed, or the network is down",
  preempted: "The scheduler has ended it, and is likely to start it again",
};

/** @param {string | null | undefined} status */
export const statusWord = (status) => KNOWN[status ?? ""]?.[0] ?? (status || "unknown").replaceAll("_", " ");
/** @param {string | null | undefined} status */
export const statusTone = (status) => KNOWN[status ?? ""]?.[1] ?? "idle";
