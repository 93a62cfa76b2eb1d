// Plain JSON values as YAML 1.1, which the service reads back as the same values: POST /specs/parse.

import { isSection } from "./paths.js";

// A word that nothing takes for anything but text: no number, date, null or boolean begins or reads like this.
const PLAIN = /^(?=[A-Za-z/])[\w/.@+-]+(?: [\w/.@+-]+)*$/;
const TAKEN = /^(?:y|n|yes|no|on|off|true|false|null)$/i;
// What JSON leaves as it is, and YAML folds or refuses: line breaks of Unicode, control characters, byte order marks.
const ESCAPED = /[\u007f-\u00a0\u2028\u2029\ufeff\ufffe\uffff]/g;
const WIDTH = 100;

export function toYaml(value) {
  return isSection(value) && Object.keys(value).length ? section(value, "") : `${inline(value)}\n`;
}

function section(value, indent) {
  return Object.entries(value).map(([name, inner]) => {
    const key = text(name);
    // A key of more than 1024 characters has to be announced.
    const start = key.length > 500 ? `${indent}? ${key}\n${indent}:` : `${indent}${key}:`;
    return start + entry(inner, indent);
  }).join("");
}

function entry(value, indent) {
  const short = inline(value);
  const flat = !isSection(value) || Object.keys(value).length === 0;
  if (flat && (short.length <= WIDTH || !Array.isArray(value) || value.length === 0)) return ` ${short}\n`;
  if (Array.isArray(value)) return `\n${value.map((item) => `${indent}  -${entry(item, `${indent}  `)}`).join("")}`;
  return `\n${section(value, `${indent}  `)}`;
}

/** On one line, as in `{distill: {pkd: {}}}`. */
export function inline(value) {
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (isSection(value)) {
    const entries = Object.entries(value).map(([name, inner]) => `${text(name)}: ${inline(inner)}`);
    return `{${entries.join(", ")}}`;
  }
  return typeof value === "string" ? text(value) : typeof value === "number" ? number(value) : String(value);
}

function text(value) {
  if (PLAIN.test(value) && !TAKEN.test(value) && value.length <= 400) return value;
  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(ESCAPED, escaped);
}

/** YAML 1.1 wants a point in a number with an exponent, and the exponent's sign: 1e-5 would be text. */
function number(value) {
  const [digits, exponent] = String(value).split("e");
  if (exponent === undefined) return digits;
  return `${digits.includes(".") ? digits : `${digits}.0`}e${exponent}`;  // the sign is there: 1e+21
}
