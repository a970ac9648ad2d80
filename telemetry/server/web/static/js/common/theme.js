/** The theme button: system, light, dark; kept in localStorage. */

import { icon } from "./dom.js";

const KEY = "telemetry.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const SHOWN = { auto: ["auto", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };

const current = () => document.documentElement.dataset.theme ?? "auto";

function show(button) {
  const [name, words] = SHOWN[current()];
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", `Theme: ${words}`);
  button.title = `Theme: ${words}`;
}

function announce() {
  document.dispatchEvent(new CustomEvent("themechange"));
}

function choose(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch {
    // Storage is forbidden: the choice lasts as long as this page.
  }
  announce();
}

const button = document.getElementById("theme");
if (button) {
  show(button);
  button.addEventListener("click", () => {
    choose(NEXT[current()]);
    show(button);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

/**
 * A colour of the style sheet as it is right now, for what is not drawn by CSS.
 * @param {string} name  such as "--accent"
 * @returns {string}
 */
export function color(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
