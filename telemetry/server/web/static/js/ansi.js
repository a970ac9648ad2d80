/** Terminal colours in console lines: SGR sequences become classes, all other escapes are left out. */

// CSI (colours, cursor movement), OSC (titles, links; ended by BEL or ESC \) and the two-byte escapes.
// eslint-disable-next-line no-control-regex
const ESCAPE = /\x1b\[([0-9;:?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[@-_]?/g;

/**
 * @param {string} text
 * @returns {{text: string, classes: string}[]} runs of text in one style; together they are the visible text
 */
export function parse(text) {
  if (!text.includes("\x1b")) return [{ text, classes: "" }];
  const runs = [];
  let style = { color: "", bold: false, faint: false };
  let at = 0;
  const push = (part) => part && runs.push({ text: part, classes: classesOf(style) });
  for (const match of text.matchAll(ESCAPE)) {
    push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] === "m") style = apply(style, match[1]);
  }
  push(text.slice(at));
  return runs;
}

function apply(style, codes) {
  const next = { ...style };
  const numbers = codes.split(/[;:]/).map(Number);
  for (let i = 0; i < numbers.length; i += 1) {
    const code = numbers[i];
    if (code === 0) Object.assign(next, { color: "", bold: false, faint: false });
    else if (code === 1) next.bold = true;
    else if (code === 2) next.faint = true;
    else if (code === 22) Object.assign(next, { bold: false, faint: false });
    else if (code >= 30 && code <= 37) next.color = `ansi-${code - 30}`;
    else if (code >= 90 && code <= 97) next.color = `ansi-${code - 90}`;
    else if (code === 39) next.color = "";
    else if (code === 38 || code === 48) {
      // 256 and true colours are not drawn, but their numbers must not be read as codes.
      i += numbers[i + 1] === 5 ? 2 : 4;
      if (code === 38) next.color = "";
    }
  }
  return next;
}

const classesOf = ({ color, bold, faint }) => [color, bold && "ansi-bold", faint && "ansi-faint"].filter(Boolean).join(" ");
