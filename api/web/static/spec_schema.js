// What the service's JSON schema says of a field: its type, bounds, choices, default and description.

import { get } from "./api.js";
import { count } from "./format.js";
import { pointerOf } from "./paths.js";

export async function loadSchema() {
  const told = await get("/specs/schema");
  return {
    ...told,
    /** The field at `path` of the body in this mode, `job` or `sweep`, whose base and teacher are specifications. */
    field: (mode, path) => fieldOf(told, mode, path),
    /** The fields of the section at `path` of a specification, by name. */
    section: (path) => branchWith(told.job, at(told.job, ["spec", ...path])).properties,
  };
}

function fieldOf(told, mode, path) {
  const ofSpec = mode === "sweep" && ["base", "teacher"].includes(path[0]);
  const root = mode === "sweep" && !ofSpec ? told.sweep : told.job;
  const where = ofSpec ? ["spec", ...path.slice(1)] : path;
  const described = at(root, where);
  const all = (described.anyOf ?? [described]).map((form) => resolved(root, form));
  const forms = all.filter((form) => form.type !== "null");
  const form = forms.find((each) => each.enum) ?? forms[0] ?? {};
  return {
    pointer: pointerOf(path),
    type: form.type,
    choices: where.at(-1) === "detector" ? told.detectors : form.enum ?? null,
    suggestions: where.slice(-2).join() === "backbone,name" ? told.backbones : null,
    default: described.default ?? undefined,
    description: described.description ?? form.description ?? "",
    bounds: boundsText(form),
  };
}

function at(root, path) {
  let schema = root;
  for (const name of path) {
    const found = branchWith(root, schema, name).properties?.[name];
    if (!found) throw new Error(`the schema has no ${pointerOf(path)}`);
    schema = found;
  }
  return { ...resolved(root, schema), ...schema };
}

/** Of a union, the form that has the property `name`, or any. */
function branchWith(root, schema, name) {
  const forms = [schema, ...(schema.anyOf ?? [])].map((form) => resolved(root, form));
  return forms.find((form) => form.properties && (name === undefined || Object.hasOwn(form.properties, name))) ?? {};
}

const resolved = (root, schema) => (schema.$ref ? root.$defs[schema.$ref.split("/").at(-1)] : schema);

function boundsText(form) {
  const low = form.minimum ?? form.exclusiveMinimum, high = form.maximum ?? form.exclusiveMaximum;
  const above = form.exclusiveMinimum === undefined ? "" : "above ";
  const below = form.exclusiveMaximum === undefined ? "" : "below ";
  if (low === undefined && high === undefined) return "";
  if (high === undefined) return above ? `above ${count(low)}` : `at least ${count(low)}`;
  if (low === undefined) return below ? `below ${count(high)}` : `at most ${count(high)}`;
  return `${above}${count(low)} to ${below}${count(high)}`;
}
