/** The page that shows several tasks side by side: their scalars, configurations, values and plots. */

import { ApiError, getText } from "../common/api.js";
import { Comparison } from "./compare-configuration.js";
import { ComparedScalars } from "./compare-scalars.js";
import { ComparedValues } from "./compare-values.js";
import { byId, coalesce, el, iconButton, setText } from "../common/dom.js";
import { count } from "../common/format.js";
import { Live } from "../common/live.js";
import { fetchPlotlyAhead } from "../charts/plotly.js";
import { ComparedPlots } from "./compare-plots.js";
import { statusTone, statusWord } from "../common/status.js";
import { startTabs } from "../common/tabs.js";
import "../common/theme.js";
import { parseExact } from "../common/typed.js";

const COLORS = 10;
const MOST = 20;
const REFRESH_EVERY_MS = 2000;

/**
 * @typedef {{id: string, name: string, label: string, color: number, hidden: boolean, record: any, status: string, task: any}} Compared
 */

const ids = [
  ...new Set(
    (new URLSearchParams(location.search).get("tasks") ?? "").split(",").filter((id) => /^[0-9a-f]{32}$/.test(id)),
  ),
].slice(0, MOST);
const tasks = /** @type {Compared[]} */ ([]);
const hidden = new Set();
const parts = {
  scalars: new ComparedScalars(tasks, problem),
  configuration: new Comparison(tasks),
  values: new ComparedValues(tasks, problem),
  plots: new ComparedPlots(tasks, problem),
};
const started = new Set();
let tab = "";

function problem(error) {
  setText(byId("problem"), error ? `The server could not answer: ${error.message}` : "");
  byId("problem").hidden = !error;
}

async function fetchTasks() {
  const gone = [];
  const found = await Promise.all(
    ids.map(async (id) => {
      try {
        return parseExact(await getText(`/tasks/${id}`));
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 404) throw error;
        gone.push(id);
        return null;
      }
    }),
  );
  problem(null);
  tasks.splice(
    0,
    tasks.length,
    ...found.filter(Boolean).map((task, index) => ({
      id: task.id,
      name: task.name || task.id,
      label: task.name || task.id,
      color: index % COLORS,
      hidden: hidden.has(task.id),
      record: task.record ?? {},
      status: task.status,
      task,
    })),
  );
  nameApart();
  setText(
    byId("gone"),
    gone.length
      ? `${count(gone.length)} of the tasks ${gone.length === 1 ? "is" : "are"} not on this server: ${gone.join(", ")}`
      : "",
  );
  byId("gone").hidden = gone.length === 0;
  byId("nothing").hidden = tasks.length > 0;
  byId("shown").hidden = tasks.length === 0;
  showTasks();
  for (const name of started) parts[name].refresh();
}

/** Tasks of one name are told apart by their ids. */
function nameApart() {
  for (const task of tasks) {
    if (tasks.filter(({ name }) => name === task.name).length > 1) task.label = `${task.name} · ${task.id.slice(0, 6)}`;
  }
}

function showTasks() {
  document.title = `${tasks.map(({ name }) => name).join(", ")} · compared · telemetry`;
  byId("compared").replaceChildren(
    ...tasks.map((task) => {
      const dot = el("i", { "aria-hidden": "true" });
      dot.style.background = `var(--series-${task.color})`;
      const toggle = el(
        "button",
        {
          type: "button",
          class: "compared-toggle",
          "aria-pressed": String(!task.hidden),
          title: `${task.label}: show or hide in the charts`,
          onclick: () => hide(task.id, !task.hidden),
        },
        dot,
        el("span", {}, task.label),
      );
      const status = el("span", {
        class: "status",
        "data-tone": statusTone(task.status),
        title: statusWord(task.status),
      });
      return el(
        "span",
        { class: "compared-task" },
        toggle,
        status,
        el("a", { href: `/tasks/${task.id}`, "aria-label": `Open ${task.label}` }, "open"),
        iconButton("close", `Leave ${task.label} out`, () => leaveOut(task.id)),
      );
    }),
  );
}

function hide(id, on) {
  if (on) hidden.add(id);
  else hidden.delete(id);
  for (const task of tasks) task.hidden = hidden.has(task.id);
  showTasks();
  const buttons = /** @type {NodeListOf<HTMLElement>} */ (byId("compared").querySelectorAll(".compared-toggle"));
  buttons[tasks.findIndex((task) => task.id === id)]?.focus();
  if (started.has("scalars")) parts.scalars.showHidden();
}

function leaveOut(id) {
  const given = new URLSearchParams(location.search);
  given.set("tasks", ids.filter((other) => other !== id).join(","));
  location.search = given.toString().replaceAll("%2C", ",");
}

function showTab(name) {
  tab = name;
  if (name === "scalars" || name === "plots") fetchPlotlyAhead();
  if (!started.has(name) && tasks.length) parts[name].refresh();
  started.add(name);
}

const refresh = coalesce(() => fetchTasks().catch(problem), REFRESH_EVERY_MS);
startTabs(showTab);
refresh();
new Live(
  {},
  {
    tasks: ({ ids: changed }) => changed.some((/** @type {string} */ id) => ids.includes(id)) && refresh(),
  },
  refresh,
);
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea"))
    return;
  const field = { scalars: "chart-search", configuration: "difference-search", values: "value-search" }[tab];
  if (!field) return;
  event.preventDefault();
  /** @type {HTMLInputElement} */ (byId(field)).select();
});
