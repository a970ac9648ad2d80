/** A task's page: its head, its tabs, and one live feed for all of them. */

import { ApiError, get } from "../common/api.js";
import { Artifacts } from "./artifacts.js";
import { Configuration } from "./configuration.js";
import { Console } from "./console.js";
import { byId, coalesce, setText } from "../common/dom.js";
import { Info } from "./info.js";
import { Live } from "../common/live.js";
import { fetchPlotlyAhead } from "../charts/plotly.js";
import { Plots } from "../charts/plots.js";
import { Points } from "../charts/points.js";
import { Resources } from "./resources.js";
import { Samples } from "./samples.js";
import { Scalars } from "./scalars.js";
import { markTab, startTabs } from "../common/tabs.js";
import { startEditing } from "./task-edit.js";
import { Header } from "./task-header.js";
import "../common/theme.js";

const RECORD_EVERY_MS = 2000;
// Tabs that show the task's record, which the feed does not bring.
const OF_RECORD = ["configuration", "artifacts", "info"];
const WITH_DETAIL = ["configuration", "artifacts", "plots", "samples"];

const taskId = byId("task").dataset.task ?? "";
const points = new Points(taskId);
const parts = {
  scalars: new Scalars(taskId, points, problem),
  plots: new Plots(taskId, problem),
  samples: new Samples(taskId, problem),
  artifacts: new Artifacts(taskId, problem),
  console: new Console(taskId, problem),
  configuration: new Configuration(taskId, problem),
  resources: new Resources(taskId, points, problem),
  info: new Info(),
};
const header = new Header();
const started = new Set();
let tab = "";

/** @param {Error | null} error */
function problem(error) {
  // A task that is not there has a text of its own.
  if (error instanceof ApiError && error.status === 404) return;
  setText(byId("problem"), error ? `The server could not answer: ${error.message}` : "");
  byId("problem").hidden = !error;
}

async function fetchTask() {
  try {
    const task = await get(`/tasks/${taskId}`);
    problem(null);
    const appeared = !byId("missing").hidden;
    byId("missing").hidden = true;
    byId("shown").hidden = false;
    header.show(task);
    parts.info.show(task);
    parts.artifacts.setTask(task);
    for (const name of ["scalars", "console"]) parts[name].setTask(task.record);
    markTabs(task);
    parts.resources.table.setWriters(task.record?.writers ?? {});
    if (appeared) for (const name of started) parts[name].refresh();
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) {
      byId("missing").hidden = !byId("shown").hidden;
    } else problem(error);
  }
}

/** Tabs with nothing in them step back. A draft has only a configuration: that is shown, unless one chose.
 * @param {{record?: Record<string, object>, counts?: Record<string, number>, status: string}} task
 */
function markTabs({ record = {}, counts = {}, status }) {
  const size = (...sections) => sections.reduce((sum, section) => sum + Object.keys(record[section] ?? {}).length, 0);
  markTab("scalars", counts.points ?? 1);
  markTab("console", counts.console_lines ?? 1);
  markTab("resources", counts.resource_points ?? 1);
  markTab("plots", counts.plots ?? 0);
  markTab("samples", counts.media ?? 0);
  markTab("artifacts", size("artifacts", "output_models", "input_models") + (counts.models ?? 0));
  markTab("configuration", size("parameters", "configuration", "properties", "labels", "script", "container"));
  if (status === "created" && !location.hash && tab === "scalars" && !counts.points) location.replace("#configuration");
}

function showTab(name, detail) {
  tab = name;
  if (WITH_DETAIL.includes(name)) parts[name].show(detail);
  // Five megabytes of Plotly arrive while the series are still being listed.
  if (["scalars", "plots", "resources"].includes(name)) fetchPlotlyAhead();
  // What a tab shows is fetched when it is first looked at.
  if (!started.has(name)) parts[name].refresh();
  else if (OF_RECORD.includes(name)) refreshRecord();
  started.add(name);
  parts.console.setShown(name === "console");
}

// The record (parameters, ledger, writers) is larger than what the feed brings, and only Info shows it.
const fetchTaskSoon = coalesce(fetchTask, RECORD_EVERY_MS);

function refreshRecord() {
  if (tab === "configuration") parts.configuration.refresh();
  fetchTaskSoon();
}

fetchTask();
startTabs(showTab);
startEditing(taskId, () => header.task, fetchTaskSoon);
new Live(
  { task: taskId },
  {
    // Begun anew: nothing of what is shown is there any more.
    reset: () => location.reload(),
    task: (task) => {
      if (byId("shown").hidden) fetchTaskSoon();
      else if (OF_RECORD.includes(tab)) refreshRecord();
      if (!byId("shown").hidden) header.show(task);
      if (started.has("scalars")) parts.scalars.onValuesMayHaveChanged();
      for (const name of ["plots", "samples"]) if (started.has(name)) parts[name].onBytes();
    },
    points: ({ series }) => {
      for (const name of ["scalars", "resources"]) if (started.has(name)) parts[name].onPoints(series);
    },
    console: ({ last_id: lastId }) => started.has("console") && parts.console.onLines(lastId),
    plots: () => {
      markTab("plots", 1);
      if (started.has("plots")) parts.plots.refresh();
    },
    media: () => {
      markTab("samples", 1);
      if (started.has("samples")) parts.samples.refresh();
    },
    models: () => {
      markTab("artifacts", 1);
      if (started.has("artifacts")) parts.artifacts.refresh();
    },
  },
  () => {
    fetchTask();
    for (const name of started) parts[name].refresh();
  },
);

document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea"))
    return;
  const field = {
    scalars: "chart-search",
    plots: "plot-search",
    samples: "sample-search",
    console: "console-search",
    configuration: "configuration-search",
  }[tab];
  if (!field) return;
  event.preventDefault();
  /** @type {HTMLInputElement} */ (byId(field)).select();
});
