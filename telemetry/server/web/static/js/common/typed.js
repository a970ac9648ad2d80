/**
 * Typed values of parameters and properties: how they are read, shown, and written back without a loss.
 *
 * JavaScript has one kind of number: 1.0 would become 1, and an integer beyond 2^53 another one. So the record is read
 * with each number's own text where the browser gives it, and edits are sent as JSON that is written here by hand.
 */

const INT64_MAX = 2n ** 63n - 1n;
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const NOT_FINITE = {
  nan: "nan",
  inf: "inf",
  "+inf": "inf",
  infinity: "inf",
  "+infinity": "inf",
  "-inf": "-inf",
  "-infinity": "-inf",
};

/** Types that can be chosen for a new value. */
export const TYPES = ["str", "int", "float", "bool", "list", "dict"];

/** A number whose text says more than its value. */
export class Exact {
  /** @param {string} source @param {number} value */
  constructor(source, value) {
    this.source = source;
    this.value = value;
  }

  valueOf() {
    return this.value;
  }

  toString() {
    return this.source;
  }

  toJSON() {
    return this.source;
  }
}

/** Parse JSON, keeping as Exact the numbers that would read differently. @param {string} text */
export function parseExact(text) {
  return JSON.parse(text, (_key, value, context) => {
    const source = /** @type {any} */ (context)?.source;
    return typeof value === "number" && source !== undefined && source !== String(value)
      ? new Exact(source, value)
      : value;
  });
}

/**
 * A parameter or property as the record keeps it: an entry, or by itself where a program wrote it so.
 * @param {any} kept
 * @returns {{value: any, type: string, description: string}}
 */
export function entryOf(kept) {
  const plain = kept && typeof kept === "object" && !Array.isArray(kept) && !(kept instanceof Exact);
  if (plain && "value" in kept)
    return { value: kept.value, type: String(kept.type ?? ""), description: String(kept.description ?? "") };
  return { value: kept, type: typeOf(kept), description: "" };
}

function typeOf(value) {
  if (value === null || value === undefined) return "";
  if (value instanceof Exact) return /[.e]/i.test(value.source) ? "float" : "int";
  if (Array.isArray(value)) return "list";
  return { boolean: "bool", string: "str", number: Number.isInteger(value) ? "int" : "float" }[typeof value] ?? "dict";
}

/**
 * A value as a person reads and types it. Lists and dicts are JSON.
 * @param {any} value
 * @param {number} [indent]  spaces by which what is inside is moved, over several lines; 0 for one line
 */
export function valueText(value, indent = 0) {
  if (typeof value === "string") return value;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return jsonText(value, indent);
}

/** JSON in which numbers keep their text. */
function jsonText(value, indent, before = "") {
  if (value instanceof Exact) return value.source;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const entries = Array.isArray(value)
    ? value.map((item) => ["", item])
    : Object.entries(value).map(([key, item]) => [`${JSON.stringify(key)}: `, item]);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return open + close;
  const inside = before + " ".repeat(indent);
  const parts = entries.map(([key, item]) => key + jsonText(item, indent, inside));
  const lines =
    indent &&
    (!Array.isArray(value) || value.some((item) => item && typeof item === "object" && !(item instanceof Exact)));
  return lines
    ? `${open}\n${inside}${parts.join(`,\n${inside}`)}\n${before}${close}`
    : `${open}${parts.join(", ")}${close}`;
}

/** What is wrong with a text as a value of its type; shown beside the field. */
export class NotOfType extends Error {}

/**
 * Write the text that a person typed as a value of a type: JSON for the value, and the word for its type.
 * @param {string} text
 * @param {string} type  as the record names it: "int", "list/float", "" for None, ...
 * @returns {{json: string, type: string}}
 * @throws {NotOfType}
 */
export function valueJson(text, type) {
  const [base] = type.split("/");
  const trimmed = text.trim();
  if (base === "") {
    if (trimmed && trimmed !== "None") throw new NotOfType("choose the type that the value has now");
    return { json: "null", type };
  }
  if (base === "int") return { json: intJson(trimmed), type };
  if (base === "float") return { json: floatJson(trimmed), type };
  if (base === "bool") {
    if (!/^(true|false)$/i.test(trimmed)) throw new NotOfType("neither True nor False");
    return { json: trimmed.toLowerCase(), type };
  }
  if (["list", "tuple", "set", "frozenset"].includes(base)) return sequenceJson(trimmed, base);
  if (base === "dict") {
    const value = parsed(trimmed, 'a dict as JSON, such as {"depth": 3}');
    if (!value || typeof value !== "object" || Array.isArray(value) || value instanceof Exact)
      throw new NotOfType("not a dict: it begins with { and ends with }");
    return { json: trimmed, type };
  }
  return { json: JSON.stringify(text), type };
}

function intJson(text) {
  if (!/^[+-]?\d+$/.test(text)) throw new NotOfType("not a whole number");
  const value = BigInt(text.replace("+", ""));
  // Beyond int64 the record keeps digits as text.
  return value <= INT64_MAX && value >= -INT64_MAX - 1n ? String(value) : JSON.stringify(String(value));
}

function floatJson(text) {
  const word = NOT_FINITE[text.toLowerCase()];
  if (word) return JSON.stringify(word);
  const value = Number(text);
  if (!text || Number.isNaN(value) || /^[+-]?0[xob]/i.test(text)) throw new NotOfType("not a number");
  if (!Number.isFinite(value)) throw new NotOfType("larger than any float");
  if (JSON_NUMBER.test(text) && /[.eE]/.test(text)) return text;
  const digits = String(value);
  return /[.e]/.test(digits) ? digits : `${digits}.0`;
}

function sequenceJson(text, base) {
  const value = parsed(text, "a list as JSON, such as [1, 2]");
  if (!Array.isArray(value)) throw new NotOfType("not a list: it begins with [ and ends with ]");
  const words = new Set(value.map(typeOf));
  const [word] = words;
  const known = words.size === 1 && ["int", "float", "str", "bool"].includes(word);
  return { json: text, type: known ? `${base}/${word}` : base };
}

function parsed(text, wanted) {
  try {
    return parseExact(text);
  } catch {
    throw new NotOfType(`not ${wanted}`);
  }
}
