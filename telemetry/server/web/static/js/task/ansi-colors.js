/** Colours that a program has chosen in numbers, made readable: 4.5:1 against what they stand on. */

const READABLE = 4.5;

// Where console lines stand: --surface-2 of base.css, the one of a line's two grounds that leaves less contrast.
const GROUNDS = { light: [241, 241, 238], dark: [30, 34, 42] };
const BLACK = [0, 0, 0];
const WHITE = [255, 255, 255];

/**
 * @param {number[]} rgb
 * @returns {string} CSS: the colour on the page, darker in the light theme and lighter in the dark one where it must be
 */
export function onPage(rgb) {
  return `light-dark(${css(towards(rgb, BLACK, GROUNDS.light))}, ${css(towards(rgb, WHITE, GROUNDS.dark))})`;
}

/**
 * @param {import("./ansi.js").Color | null} ink
 * @param {number[]} ground
 * @returns {string} CSS: the ink on a ground of the program's own, black or white where it has none of its own
 */
export function onto(ink, ground) {
  const end = contrast(BLACK, ground) > contrast(WHITE, ground) ? BLACK : WHITE;
  return css(Array.isArray(ink) ? towards(ink, end, ground) : end);
}

/** The colour, mixed with black or white as little as makes it readable. */
function towards(rgb, end, ground) {
  for (let share = 0; share < 1; share += 0.05) {
    const mixed = rgb.map((part, index) => Math.round(part + (end[index] - part) * share));
    if (contrast(mixed, ground) >= READABLE) return mixed;
  }
  return end;
}

/** WCAG 2.2, contrast ratio. */
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

const css = (rgb) => `rgb(${rgb.join(" ")})`;
