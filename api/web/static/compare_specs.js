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

const valueText = (value) => {
  if (value === undefined) return h("span", { class: "soft" }, "–");
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} …` : text;
};

/** [{pointer, values}] of what is not the same in all of `specs`; undefined: it has no such field. */
export function differences(specs) {
  const flat = specs.map((spec) => new Map(leaves(spec, "")));
  const pointers = new Set(flat.flatMap((leaf) => [...leaf.keys()]));
  return [...pointers]
    .map((pointer) => ({ pointer, values: flat.map((leaf) => leaf.get(pointer)) }))
    .filter(({ values }) => new Set(values.map((value) => JSON.stringify(value))).size > 1)
    .sort((a, b) => (a.pointer < b.pointer ? -1 : 1));
}

/** Values by JSON pointer (RFC 6901); a list is one value. */
function* leaves(value, pointer) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    yield [pointer, value];
    return;
  }
  for (const [key, inner] of Object.entries(value))
    yield* leaves(inner, `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
}
