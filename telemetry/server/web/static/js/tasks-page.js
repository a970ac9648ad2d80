/** The page of the task table: fetches what the address asks for and keeps it fresh. */

import { get, isAbort } from "./api.js";
import { byId, coalesce, copyText, setText } from "./dom.js";
import { count } from "./format.js";
import { Live } from "./live.js";
import { isFiltered, readQuery, writeQuery } from "./tasks-query.js";
import { Rows } from "./tasks-rows.js";
import { listenForKeys, Toolbar } from "./tasks-toolbar.js";
import "./theme.js";

const REFRESH_EVERY_MS = 1000;
const TICK_MS = 5000;

let query = readQuery(location.search);
let request = new AbortController();
const rows = new Rows(byId("rows"));
const toolbar = new Toolbar(change);

/** Merge changes into the query; typing replaces the address, choosing adds a step to go back to. */
function change(changes) {
  query = { ...query, ...changes };
  const where = location.pathname + writeQuery(query);
  if ("search" in changes) history.replaceState(null, "", where);
  else history.pushState(null, "", where);
  toolbar.showQuery(query);
  refresh();
}

/** Fetch the page of tasks that the query names. An answer to an older query is thrown away. */
async function refresh() {
  request.abort();
  request = new AbortController();
  try {
    const answer = await get("/tasks", query, request.signal);
    problem("");
    show(answer);
  } catch (error) {
    if (isAbort(error)) return;
    problem(`The tasks could not be read: ${error.message}. Trying again by itself.`);
  }
}

async function refreshProjects() {
  try {
    toolbar.showProjects((await get("/projects")).projects);
  } catch {
    // The list of tasks meets the same trouble and says so; the filter keeps its old choices.
  }
}

function show({ tasks, total }) {
  rows.show(tasks);
  toolbar.offerMetrics(tasks);
  toolbar.showPages(query, total, tasks.length);
  setText(byId("total"), total ? count(total) : "");
  byId("table").hidden = tasks.length === 0;
  const nothing = total === 0 && !isFiltered(query);
  byId("start").hidden = !nothing;
  byId("toolbar").hidden = nothing;
  byId("no-match").hidden = tasks.length > 0 || nothing;
  const parts = [
    query.search && `“${query.search}” in the name`,
    query.project && `project ${query.project}`,
    query.status && `status ${query.status}`,
  ].filter(Boolean);
  setText(byId("no-match-text"), total > 0 ? "This page is past the end of the list." : `Looked for ${parts.join(", ")}.`);
}

function problem(text) {
  setText(byId("problem"), text);
  byId("problem").hidden = !text;
}

setText(byId("snippet-url"), `export TELEMETRY_URL=${location.origin}`);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copyText(button, byId(button.getAttribute("data-copy") ?? "").textContent ?? ""));
}
addEventListener("popstate", () => {
  query = readQuery(location.search);
  toolbar.showQuery(query);
  refresh();
});
listenForKeys(rows);
toolbar.showQuery(query);
refresh();
refreshProjects();

const refreshSoon = coalesce(refresh, REFRESH_EVERY_MS);
// New projects come with new tasks, which is rare: one look in ten seconds is enough.
const refreshProjectsSoon = coalesce(refreshProjects, 10 * REFRESH_EVERY_MS);
new Live({}, {
  tasks: () => {
    refreshSoon();
    refreshProjectsSoon();
  },
}, () => {
  refresh();
  refreshProjects();
});
setInterval(() => rows.tick(), TICK_MS);
