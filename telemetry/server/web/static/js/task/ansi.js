/** Terminal colours in console lines: SGR sequences become a style for each run of text, all other escapes are left out. */

import { onPage, onto } from "./ansi-colors.js";

// CSI (colours, cursor movement), OSC (titles, links; ended by BEL or ESC \) and the two-byte escapes.
// eslint-disable-next-line no-control-regex
const ESCAPE = /\x1b\[([0-9;:?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[@-_]?/g;

/**
 * A colour is one of the 16 that have names, which the theme paints, or red, green and blue, 0 to 255.
 * @typedef {number | [number, number, number]} Color
 * @typedef {{color: Color | null, back: Color | null, bold: boolean, faint: boolean, italic: boolean, underline: boolean, strike: boolean, inverse: boolean}} Style
 * @typedef {{text: string, classes: string, color: string, back: string}} Run  `color` and `back`: CSS, or ""
 */

/** @type {Style} */
const PLAIN = {
  color: null,
  back: null,
  bold: false,
  faint: false,
  italic: false,
  underline: false,
  strike: false,
  inverse: false,
};

/** @type {Record<number, Partial<Style>>} */
const SWITCHES = {
  0: PLAIN,
  1: { bold: true },
  2: { faint: true },
  3: { italic: true },
  4: { underline: true },
  7: { inverse: true },
  9: { strike: true },
  21: { underline: true },
  22: { bold: false, faint: false },
  23: { italic: false },
  24: { underline: false },
  27: { inverse: false },
  29: { strike: false },
  39: { color: null },
  49: { back: null },
};

/**
 * @param {string} text
 * @returns {Run[]} runs of text in one style; together they are the visible text
 */
export function parse(text) {
  if (!text.includes("\x1b")) return [{ text, classes: "", color: "", back: "" }];
  const runs = [];
  let style = PLAIN;
  let at = 0;
  const push = (part) => part && runs.push({ text: part, ...lookOf(style) });
  for (const match of text.matchAll(ESCAPE)) {
    push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] === "m" && !match[1].includes("?")) style = apply(style, match[1]);
  }
  push(text.slice(at));
  return runs;
}

/** @returns {Style} */
function apply(style, parameters) {
  let next = style;
  const codes = parameters.split(";");
  while (codes.length) {
    const [code, ...parts] = (codes.shift() ?? "").split(":").map(Number);
    if (code === 38 || code === 48 || code === 58) {
      const color = colorOf(parts.length ? parts : takeColor(codes));
      // 58 is the colour of the underline, which is not drawn.
      if (color !== null && code !== 58) next = { ...next, [code === 38 ? "color" : "back"]: color };
    } else if (code === 4 && parts[0] === 0) next = { ...next, underline: false };
    else if (SWITCHES[code]) next = { ...next, ...SWITCHES[code] };
    else if (code >= 30 && code <= 37) next = { ...next, color: code - 30 };
    else if (code >= 90 && code <= 97) next = { ...next, color: code - 82 };
    else if (code >= 40 && code <= 47) next = { ...next, back: code - 40 };
    else if (code >= 100 && code <= 107) next = { ...next, back: code - 92 };
  }
  return next;
}

/** The numbers of a colour in the older form, where they are codes of their own: 38;5;N and 38;2;R;G;B. */
function takeColor(codes) {
  const kind = Number(codes[0]);
  return codes.splice(0, kind === 5 ? 2 : kind === 2 ? 4 : 1).map(Number);
}

/** @returns {Color | null} */
function colorOf([kind, ...numbers]) {
  const isByte = (number) => Number.isInteger(number) && number >= 0 && number <= 255;
  if (kind === 5 && isByte(numbers[0])) return indexed(numbers[0]);
  // In the form with colons a number of a colour space, usually none, stands before the three.
  const rgb = numbers.length > 3 ? numbers.slice(1, 4) : numbers;
  return kind === 2 && rgb.length === 3 && rgb.every(isByte) ? /** @type {Color} */ (rgb) : null;
}

/** @returns {Color} of the 256: 16 with names, a cube of 6 x 6 x 6, 24 greys */
function indexed(index) {
  if (index < 16) return index;
  if (index > 231) return /** @type {Color} */ ([0, 0, 0].map(() => 8 + 10 * (index - 232)));
  const level = (step) => (step ? 55 + 40 * step : 0);
  return /** @type {Color} */ ([36, 6, 1].map((weight) => level(Math.floor((index - 16) / weight) % 6)));
}

/** @param {Style} style */
function lookOf({ color, back, bold, faint, italic, underline, strike, inverse }) {
  const [ink, ground] = inverse ? [back, color] : [color, back];
  const classes = [
    bold && "ansi-bold",
    faint && "ansi-faint",
    italic && "ansi-italic",
    underline && "ansi-underline",
    strike && "ansi-strike",
  ];
  if (Array.isArray(ground))
    return { classes: classes.filter(Boolean).join(" "), color: onto(ink, ground), back: `rgb(${ground.join(" ")})` };
  // On one of the theme's colours, or the ink of the page, stands what can be read there: the page's own ground.
  if (ground !== null) classes.push(`ansi-on-${ground}`);
  else if (inverse) classes.push("ansi-on");
  else if (typeof ink === "number") classes.push(`ansi-${ink}`);
  const free = Array.isArray(ink) && ground === null && !inverse;
  return { classes: classes.filter(Boolean).join(" "), color: free ? onPage(ink) : "", back: "" };
}
