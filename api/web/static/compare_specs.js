// In which fields the specifications of jobs differ, by JSON pointer.

import { h, table } from "./dom.js";

const MOST_ROWS = 200;
const LONGEST = 200;  // characters of a value

/** The table, or that there is nothing to tell. `titles`: of the jobs, by id. */
export function specTable(jobs, titles) {
  if (jobs.length < 2) return null;
  const differing = differences(jobs.map((job) => job.spec));
  return h("details", { open: true }, h("summary", {}, `Specifications: ${differing.length} field${differing.length === 1 ? " differs" : "s differ"}`),
    differing.length > MOST_ROWS && h("p", { class: "soft" }, `The first ${MOST_ROWS} of them.`),
    differing.length > 0 && table([
      { title: "Field", cell: (row) => h("code", { class: "name" }, row.pointer) },
      ...jobs.map((job, place) => ({ title: titles.get(job.id), cell: (row) => valueText(row.values[place]) })),
    ], differing.slice(0, MOST_ROWS), "Fields of the specifications that differ"));
}

function valueText(value) {
  if (value === undefined) return h("span", { class: "soft" }, "–");
  const text = typeof value === "string" ? value : JSON.stringify(value, withoutNulls);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} …` : text;
}

/** Of a section as a whole: what it does not use tells nothing. */
const withoutNulls = (key, value) => (key !== "" && value === null ? undefined : value);

/**
 * [{pointer, values}] of what is not the same in all of `specs`; undefined: it has no such field. A list is one value,
 * and so is a section that one of them lacks: its knobs differ from nothing.
 */
export function differences(specs) {
  return [...differing(specs, "")].sort((a, b) => (a.pointer < b.pointer ? -1 : 1));
}

function* differing(values, pointer) {
  if (values.every(isSection)) {
    for (const key of new Set(values.flatMap(Object.keys)))
      yield* differing(values.map((value) => (Object.hasOwn(value, key) ? value[key] : undefined)), `${pointer}/${escaped(key)}`);
  } else if (new Set(values.map((value) => JSON.stringify(value))).size > 1) yield { pointer, values };
}

const isSection = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const escaped = (key) => key.replaceAll("~", "~0").replaceAll("/", "~1");  // of a JSON pointer (RFC 6901)
