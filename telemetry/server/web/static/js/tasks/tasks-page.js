/** The page of the task table: fetches what the address asks for and keeps it fresh. */

import { get, isAbort } from "../common/api.js";
import { byId, coalesce, copyText, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { Live } from "../common/live.js";
import { statusWord } from "../common/status.js";
import { columnsOf } from "./tasks-columns.js";
import { apiQuery, isFiltered, readQuery, writeQuery } from "./tasks-query.js";
import { Rows } from "./tasks-rows.js";
import { Selection } from "./tasks-selection.js";
import { listenForKeys, Toolbar } from "./tasks-toolbar.js";
import "../common/theme.js";

const REFRESH_EVERY_MS = 1000;
const TICK_MS = 5000;

let query = readQuery(location.search);
let request = new AbortController();
const selection = new Selection(showChosen, () => {
  refresh();
  refreshChoices();
});
const rows = new Rows(byId("rows"), selection);
const toolbar = new Toolbar(change, (on) => selection.set(rows.tasks, on));

function showChosen() {
  rows.showChosen();
  const { tasks } = rows;
  toolbar.showChosen(tasks.filter(({ id }) => selection.has(id)).length, tasks.length);
}

/** Merge changes into the query; typing replaces the address, choosing adds a step to go back to. */
function change(changes) {
  const before = query.project + query.subprojects;
  query = { ...query, ...changes };
  const where = location.pathname + writeQuery(query);
  if ("search" in changes) history.replaceState(null, "", where);
  else history.pushState(null, "", where);
  toolbar.showQuery(query);
  refresh();
  if (query.project + query.subprojects !== before) refreshChoices();
}

/** Fetch the page of tasks that the query names. An answer to an older query is thrown away. */
async function refresh() {
  request.abort();
  request = new AbortController();
  try {
    const answer = await get("/tasks", apiQuery(query), request.signal);
    problem("");
    show(answer);
  } catch (error) {
    if (isAbort(error)) return;
    problem(`The tasks could not be read: ${error.message}. Trying again by itself.`);
  }
}

async function refreshChoices() {
  try {
    const { project, subprojects } = apiQuery(query);
    const [{ projects }, choices] = await Promise.all([get("/projects"), get("/choices", { project, subprojects })]);
    toolbar.projects.offer(projects);
    toolbar.offerChoices(choices);
  } catch {
    // The list of tasks meets the same trouble and says so; the filter keeps its old choices.
  }
}

function show({ tasks, total }) {
  const columns = columnsOf(query);
  toolbar.showHeaders(columns, query);
  rows.show(tasks, columns);
  byId("list").classList.toggle("wide", query.columns.length > 0);
  selection.refresh(tasks);
  showChosen();
  toolbar.offerMetrics(tasks);
  toolbar.showPages(query, total, tasks.length);
  setText(byId("total"), total ? count(total) : "");
  byId("table").hidden = tasks.length === 0;
  const nothing = total === 0 && !isFiltered(query) && query.page === 0;
  byId("start").hidden = !nothing;
  byId("toolbar").hidden = nothing;
  byId("no-match").hidden = tasks.length > 0 || nothing;
  const parts = [
    query.search && `“${query.search}” in name, project, tags, comment and id`,
    query.project && `project ${query.project}`,
    query.status.length && `status ${query.status.map(statusWord).join(" or ")}`,
    query.type.length && `type ${query.type.join(" or ")}`,
    query.tags.length && `tags ${query.tags.join(query.match === "all" ? " and " : " or ")}`,
    { 1: "archived tasks", all: "archived tasks, too" }[query.archived],
  ].filter(Boolean);
  setText(
    byId("no-match-text"),
    total > 0 ? "This page is past the end of the list." : `Looked for ${parts.join(", ")}.`,
  );
}

function problem(text) {
  setText(byId("problem"), text);
  byId("problem").hidden = !text;
}

setText(byId("snippet-url"), `export TELEMETRY_URL=${location.origin}`);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () =>
    copyText(button, byId(button.getAttribute("data-copy") ?? "").textContent ?? ""),
  );
}
addEventListener("popstate", () => {
  query = readQuery(location.search);
  toolbar.showQuery(query);
  refresh();
});
listenForKeys(rows, selection);
toolbar.showQuery(query);
// The rows first: what can be filtered by is asked for when they are there.
refresh().then(refreshChoices);

const refreshSoon = coalesce(refresh, REFRESH_EVERY_MS);
// New projects come with new tasks, which is rare: one look in ten seconds is enough.
const refreshChoicesSoon = coalesce(refreshChoices, 10 * REFRESH_EVERY_MS);
new Live(
  {},
  {
    tasks: () => {
      refreshSoon();
      refreshChoicesSoon();
    },
  },
  () => {
    refresh();
    refreshChoices();
  },
);
setInterval(() => rows.tick(), TICK_MS);
