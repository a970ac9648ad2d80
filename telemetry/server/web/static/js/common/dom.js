/** Building and finding elements. All text passes through textContent: nothing here takes markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Find an element that the template promises.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * An address that may be a link or a source: on this server, or http(s) elsewhere. The record may hold any text, and
 * "javascript:" or "data:" would run, or pose as, what is not ours.
 * @param {unknown} address
 * @returns {string | null} null where it may not
 */
export function safeUrl(address) {
  const text = String(address);
  // As the browser reads it: it passes over control characters and spaces, "java\tscript:" among them.
  const plain = text.replace(/[\u0000-\u0020]/g, "");
  return /^(https?:\/\/|[/#?](?![/\\]))/i.test(plain) ? text : null;
}

const ADDRESSES = new Set(["href", "src"]);

/**
 * Make an element. `attributes`: "class", "data-*" and so on are set as attributes; functions under "on..."
 * become listeners; false, null and undefined are left out, true is an empty attribute.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string | number | null | undefined)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined || (ADDRESSES.has(name) && safeUrl(value) === null))
      continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Set an element's text, only when it changes: selections and screen readers stay undisturbed. */
export function setText(element, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== value) element.textContent = value;
}

/** Set an attribute, only when it changes; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || (ADDRESSES.has(name) && safeUrl(value) === null))
    element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/**
 * Make the children of `parent` these, in this order, moving as few as possible, and keep the focus.
 * @param {HTMLElement} parent
 * @param {HTMLElement[]} children
 */
export function arrange(parent, children) {
  const focused = document.activeElement;
  const wanted = /** @type {Set<Element>} */ (new Set(children));
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  // Moving an element in the tree takes the focus from it.
  if (focused instanceof HTMLElement && focused !== document.activeElement && parent.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

const ICONS = {
  expand: "M9.500 2.500h4v4M6.500 13.500h-4v-4M13.500 2.500 9 7M2.500 13.500 7 9",
  close: "M3.500 3.500l9 9M12.500 3.500l-9 9",
  reset: "M3 8a5 5 0 1 0 1.600-3.700M3 2.500V5h2.500",
  log: "M3 2.500v11h10.500M6 11c0-4 2.500-6.500 7-7",
  copy: "M5.500 5.500h8v8h-8zM3.500 10.500h-1v-8h8v1",
  check: "M3 8.500l3.500 3.500L13 4.500",
  sun: "M8 5.200a2.800 2.800 0 1 0 0 5.600a2.800 2.800 0 0 0 0-5.600M8 1.200v1.300M8 13.500v1.300M1.200 8h1.300M13.500 8h1.300M3.200 3.200l.9.900M11.900 11.900l.9.900M3.200 12.800l.9-.900M11.900 4.100l.9-.900",
  moon: "M13.500 9.600A5.800 5.800 0 0 1 6.400 2.500a5.800 5.800 0 1 0 7.100 7.100z",
  auto: "M8 2.200a5.800 5.800 0 1 0 0 11.600a5.800 5.800 0 0 0 0-11.600M8 2.200v11.600M8 5h4.600M8 8h5.700M8 11h4.600",
  down: "M8 3v10M3.500 8.500 8 13l4.500-4.500",
  edit: "M2.500 13.500l.7-3 7.800-7.800 2.300 2.300-7.800 7.800zM9.500 4.200l2.300 2.300",
  add: "M8 3v10M3 8h10",
  remove: "M3 4.500h10M6.500 4.500v-2h3v2M4.500 4.500l.5 9h6l.5-9M6.800 7v4M9.200 7v4",
  download: "M8 2.500v8M4.500 7.500 8 11l3.500-3.500M3 13.500h10",
  columns: "M2.500 3.500h11v9h-11zM6.200 3.500v9M9.800 3.500v9",
  archive: "M2.500 3h11v3h-11zM3.500 6v7.500h9V6M6.500 8.500h3",
  previous: "M10 3 5 8l5 5",
  next: "M6 3l5 5-5 5",
  more: "M3.500 6 8 10.500 12.500 6",
};

/**
 * A line icon of 16 by 16, drawn in the current colour and hidden from screen readers.
 * @param {keyof typeof ICONS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that only shows an icon; `label` is its name and its tooltip.
 * @param {keyof typeof ICONS} name
 * @param {string} label
 * @param {() => void} onclick
 */
export function iconButton(name, label, onclick) {
  const button = el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick });
  button.append(icon(name));
  return button;
}

/**
 * Return a function that runs `action` once, `delayMs` after the last call. `.cancel()` forgets it.
 * @template {unknown[]} A
 * @param {(...args: A) => void} action
 * @param {number} delayMs
 */
export function debounce(action, delayMs) {
  let timer = 0;
  const later = (/** @type {A} */ ...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), delayMs);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/**
 * Return a function that runs an async `action` at once, never twice at a time and at most each `everyMs`;
 * calls in between become one more run at the end.
 * @param {() => Promise<unknown>} action
 * @param {number} everyMs
 */
export function coalesce(action, everyMs) {
  let running = false;
  let again = false;
  const run = async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    try {
      await action();
    } finally {
      setTimeout(() => {
        running = false;
        if (again) run();
      }, everyMs);
    }
  };
  return run;
}

/** Put text on the clipboard and say so on the button for a moment. */
export async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http from another machine has no clipboard API: the old way needs a selected field.
    const field = el("textarea", { class: "visually-hidden", readonly: true });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const before = [...button.childNodes];
  button.replaceChildren(button.classList.contains("icon-button") ? icon("check") : "Copied");
  setTimeout(() => button.replaceChildren(...before), 1200);
}
