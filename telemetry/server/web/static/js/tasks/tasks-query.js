/** What the task table shows: search, filters, columns, order and page, kept in the address so it can be shared. */

/**
 * `status`, `type`, `tags`, `columns` and `hide` are lists; `match`: whether a task needs "any" or "all" of the tags;
 * `subprojects`: "0" for the project alone; `archived`: as the API takes it; `hide`: keys of columns that are always there.
 */
export const DEFAULTS = {
  search: "",
  project: "",
  subprojects: "1",
  status: /** @type {string[]} */ ([]),
  type: /** @type {string[]} */ ([]),
  tags: /** @type {string[]} */ ([]),
  match: "any",
  archived: "0",
  columns: /** @type {string[]} */ ([]),
  hide: /** @type {string[]} */ ([]),
  sort: "-started",
  page: 0,
  page_size: 50,
};
/** What "Clear filters" clears. */
export const NO_FILTERS = {
  search: "",
  project: "",
  subprojects: "1",
  status: [],
  type: [],
  tags: [],
  match: "any",
  archived: "0",
  page: 0,
};

// Words without commas are one parameter with commas; names may hold any sign, and are one parameter each.
const WORDS = ["status", "type", "hide"];
const NAMES = ["tags", "columns"];

/**
 * @typedef {typeof DEFAULTS} Query
 * @param {string} text  a location's search
 * @returns {Query}
 */
export function readQuery(text) {
  const given = new URLSearchParams(text);
  const query = { ...DEFAULTS };
  for (const name of ["search", "project", "subprojects", "match", "archived", "sort"])
    query[name] = given.get(name) ?? DEFAULTS[name];
  for (const name of WORDS)
    query[name] = given
      .getAll(name)
      .flatMap((words) => words.split(","))
      .filter(Boolean);
  for (const name of NAMES) query[name] = given.getAll(name).filter(Boolean);
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
    if (Array.isArray(value)) {
      if (NAMES.includes(name)) for (const item of value) out.append(name, item);
      else if (value.length) out.set(name, value.join(","));
    } else if (value !== DEFAULTS[name]) out.set(name, String(name === "page" ? Number(value) + 1 : value));
  }
  const text = out.toString().replaceAll("%2C", ",").replaceAll("%2F", "/").replaceAll("%3A", ":");
  return text ? `?${text}` : "";
}

/** The same as the API takes it. @param {Query} query */
export function apiQuery({ match, hide, subprojects, ...query }) {
  const several = query.tags.length > 1 && match === "all";
  return {
    ...query,
    tags: several ? ["__$all", ...query.tags] : query.tags,
    subprojects: query.project && subprojects === "1" ? "1" : "",
  };
}

/** @param {Query} query  whether anything is filtered out */
export const isFiltered = (query) =>
  Boolean(
    query.search ||
    query.project ||
    query.status.length ||
    query.type.length ||
    query.tags.length ||
    query.archived !== "0",
  );

/**
 * The order after a click on a header: a new column starts the way one wants to see it, then it turns.
 * @param {string} sort
 * @param {string} key
 */
export function turnSort(sort, key) {
  const descendingFirst = key === "started" || key === "progress" || key.startsWith("max:");
  if (sort === key) return `-${key}`;
  if (sort === `-${key}`) return key;
  return descendingFirst ? `-${key}` : key;
}

const KINDS = { param: "", property: "", last: "", min: "min ", max: "max ", count: "count of ", value: "" };

/**
 * A chosen column's heading: "lr" for `param:Args/lr`, "min loss / val" for `min:loss/val`.
 * @param {string} column
 */
export function columnLabel(column) {
  const [, kind, rest] = /^(\w+):(.*)$/s.exec(column) ?? ["", "", column];
  if (kind === "param") return rest.slice(rest.indexOf("/") + 1);
  if (!["last", "min", "max", "count"].includes(kind)) return rest;
  const at = rest.lastIndexOf("/");
  const [title, series] = [rest.slice(0, at), rest.slice(at + 1)];
  return KINDS[kind] + (at < 0 || title === series ? rest.slice(at + 1) : `${title} / ${series}`);
}
