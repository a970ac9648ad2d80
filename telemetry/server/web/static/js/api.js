/** Reading the server's API (docs/pages.md names what each page asks for). */

const ROOT = "/api/v1";

/** The server answered, but not with what was asked for. `status` is HTTP's. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/**
 * GET a path below /api/v1 as JSON. Query values that are null, undefined or "" are left out.
 * @param {string} path
 * @param {Record<string, unknown>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 * @throws {ApiError} for a status that is not 2xx; TypeError when the server cannot be reached
 */
export async function get(path, query = {}, signal) {
  const response = await fetch(address(path, query), { signal, headers: { Accept: "application/json" } });
  if (response.ok) return response.json();
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // Not JSON (a proxy's page): the status line has to do.
  }
  throw new ApiError(response.status, message);
}

/**
 * @param {string} path
 * @param {Record<string, unknown>} [query]
 */
export function address(path, query = {}) {
  const parts = [];
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === "") continue;
    // Commas are legal in a query and lists of series are long: leave them readable.
    parts.push(`${name}=${encodeURIComponent(String(value)).replaceAll("%2C", ",")}`);
  }
  return ROOT + path + (parts.length ? `?${parts.join("&")}` : "");
}

/** Whether an error only says that we stopped the request ourselves. */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";
