// One field of the form: a control for one value of the body, its help from the schema, and its faults.

import { fill, h } from "./dom.js";
import { isSection, pointerOf, valueAt } from "./paths.js";

let made = 0;

/** A text of the service, in which `names` stand between backticks. */
export const withNames = (text) =>
  String(text).split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));

/** What is said in `faults` ({pointer, detail, remedy}) of the pointer `place`. */
export const faultLines = (faults, place) => faults.map(({ pointer, detail, remedy }) => h("span", { class: "line" },
  pointer !== place && [h("code", {}, pointer || "/"), " "],
  withNames(detail.endsWith(".") || !remedy ? detail : `${detail}.`), remedy && [" ", withNames(remedy)]));

/** A place that tells faults below `control`, which is marked as invalid while it has some. */
export function faultPlace(id, control) {
  const element = h("span", { class: "fault", id });
  return {
    element,
    show(faults, pointer) {
      fill(element, faultLines(faults, pointer));
      if (control) control.setAttribute("aria-invalid", faults.length > 0);
    },
  };
}

/**
 * A field for the value at `path()` of the body.
 * @param {{path: () => string[], label: string, described: object, edit: (path, value) => void, help?: string}} options
 * @returns {{element, input, pointer: () => string, fill(body), show(faults)}}
 */
export function field({ path, label, described, edit, help }) {
  made += 1;
  const id = `field-${made}`;
  const input = control(id, described);
  const faults = faultPlace(`${id}-fault`, input);
  input.setAttribute("aria-describedby", `${id}-help ${id}-fault`);
  const event = input.tagName === "SELECT" ? "change" : "input";
  input.addEventListener(event, () => edit(path(), read(input.value, described)));
  const told = [withNames(help ?? described.description), described.bounds && ` (${described.bounds})`];
  const element = h("div", { class: "field" },
    h("label", { for: id }, label), input, suggestions(id, described),
    h("span", { class: "help", id: `${id}-help` }, told), faults.element);
  return {
    element, input,
    pointer: () => pointerOf(path()),
    fill(body) {
      const value = valueAt(body, path());
      const same = JSON.stringify(read(input.value, described)) === JSON.stringify(value);
      if (document.activeElement !== input || !same) put(input, value, described);
    },
    show: (found) => faults.show(found, pointerOf(path())),
  };
}

function control(id, described) {
  const none = [undefined, null, ""].includes(described.default) || isSection(described.default);
  const usual = none ? "" : shown(described.default);
  const choices = described.type === "boolean" ? ["true", "false"] : described.choices;
  if (choices)
    return h("select", { id }, h("option", { value: "" }, usual ? `default: ${usual}` : "default"),
      choices.map((choice) => h("option", { value: choice }, choice)));
  return h("input", {
    id, type: "text", autocomplete: "off", spellcheck: "false", list: described.suggestions && `${id}-names`,
    placeholder: usual && `default: ${usual}`,
    inputmode: ["integer", "number"].includes(described.type) ? "decimal" : null,
  });
}

const suggestions = (id, described) => described.suggestions
  && h("datalist", { id: `${id}-names` }, described.suggestions.map((name) => h("option", { value: name })));

/** The value that somebody means; what is no number where one is wanted is left for the service to refuse. */
function read(text, described) {
  const bare = text.trim();
  if (bare === "") return undefined;
  if (described.type !== "string" && bare === "null") return null;
  if (described.type === "boolean") return bare === "true";
  if (described.type === "array") return bare.split(/[\s,]+/).filter(Boolean).map(number);
  if (["integer", "number"].includes(described.type)) return number(bare);
  return text;
}

const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);
const shown = (value) => (Array.isArray(value) ? value.map(shown).join(", ") : String(value));

function put(input, value, described) {
  const foreign = isSection(value);  // the YAML says more than a field can
  input.disabled = foreign;
  const absent = value === undefined || (value === null && (described.default ?? null) === null);
  const text = absent ? "" : foreign ? "as in the YAML" : shown(value);
  if (input.tagName === "SELECT" && text && ![...input.options].some((option) => option.value === text))
    input.append(h("option", { value: text }, text));
  input.value = text;
}
