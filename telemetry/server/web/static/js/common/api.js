/** The server's API (docs/pages.md names what each page asks for). */

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
  return (await getResponse(path, query, signal)).json();
}

/** The same, as the JSON's text: what must not pass through the numbers of JavaScript (typed.js). */
export async function getText(path, query = {}, signal) {
  return (await getResponse(path, query, signal)).text();
}

async function getResponse(path, query, signal) {
  const response = await fetch(address(path, query), { signal, headers: { Accept: "application/json" } });
  if (!response.ok) throw await errorOf(response);
  return response;
}

/**
 * POST JSON text to a path below /api/v1.
 * @param {string} path
 * @param {string} body
 * @returns {Promise<any>} the answer, {} where it is empty
 * @throws {ApiError} for a status that is not 2xx; TypeError when the server cannot be reached
 */
export async function post(path, body) {
  const response = await fetch(ROOT + path, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/json", Accept: "application/json" },
  });
  if (!response.ok) throw await errorOf(response);
  const text = await response.text();
  return text ? JSON.parse(text) : {};
}

async function errorOf(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // Not JSON (a proxy's page): the status line has to do.
  }
  return new ApiError(response.status, message);
}

/**
 * An address below /api/v1. A list is given as often as it has items.
 * @param {string} path
 * @param {Record<string, unknown>} [query]
 */
export function address(path, query = {}) {
  const parts = [];
  for (const [name, given] of Object.entries(query)) {
    for (const value of Array.isArray(given) ? given : [given]) {
      if (value === null || value === undefined || value === "") continue;
      // Commas are legal in a query and lists of series are long: leave them readable.
      parts.push(`${name}=${encodeURIComponent(String(value)).replaceAll("%2C", ",")}`);
    }
  }
  return ROOT + path + (parts.length ? `?${parts.join("&")}` : "");
}

/** Whether an error only says that we stopped the request ourselves. */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";
