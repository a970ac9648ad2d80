/** What the task table shows: search, filters, order and page, kept in the address so it can be shared. */

export const DEFAULTS = { search: "", project: "", status: "", sort: "-started", page: 0, page_size: 50 };

/**
 * @typedef {typeof DEFAULTS} Query
 * @param {string} text  a location's search
 * @returns {Query}
 */
export function readQuery(text) {
  const given = new URLSearchParams(text);
  const query = { ...DEFAULTS };
  for (const name of ["search", "project", "status", "sort"]) query[name] = given.get(name) ?? DEFAULTS[name];
  // People count pages from 1; so does the address. The API counts from 0.
  query.page = Math.max(0, (Number.parseInt(given.get("page") ?? "", 10) || 1) - 1);
  const size = Number.parseInt(given.get("page_size") ?? "", 10);
  if (size > 0 && size <= 500) query.page_size = size;
  return query;
}

/**
 * @param {Query} query
 * @returns {string} "" or "?..." with only what differs from the defaults
 */
export function writeQuery(query) {
  const out = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== DEFAULTS[name]) out.set(name, String(name === "page" ? Number(value) + 1 : value));
  }
  const text = out.toString();
  return text ? `?${text}` : "";
}

/** @param {Query} query  whether anything is filtered out */
export const isFiltered = (query) => Boolean(query.search || query.project || query.status);

/**
 * The order after a click on a header: a new column starts the way one wants to see it, then it turns.
 * @param {string} sort
 * @param {string} key
 */
export function turnSort(sort, key) {
  const descendingFirst = key === "started" || key === "progress";
  if (sort === key) return `-${key}`;
  if (sort === `-${key}`) return key;
  return descendingFirst ? `-${key}` : key;
}
