// What a new job or sweep begins with: nothing, a preset, a former one, or a text; and from one kind to the other.

import { get } from "./api.js";
import { isSection, valueAt } from "./paths.js";
import { armPatch } from "./sweep_fields.js";

const OWN_LABELS = ["sweep", "role", "arm", "seed", "point"];  // that the service puts on the jobs of a sweep
const WITHOUT_TRAINING = ["evaluate", "export", "import"];  // kinds that the sections do not always tell
const ARMS = { alone: { distill: null }, crosskd: {} };
const SEEDS = [0, 1, 2];
const remembered = { job: {}, sweep: {} };  // what the other mode had beside the specification

/** By the page's query: `?like=JOB`, `?like_sweep=SWEEP`, `?preset=NAME`, `?sweep`; {mode, body}. */
export async function begin(query, presets) {
  const [job, sweep] = [query.get("like"), query.get("like_sweep")];
  if (job) return { mode: "job", body: likeJob(await get(`/jobs/${encodeURIComponent(job)}`)) };
  if (sweep) return { mode: "sweep", body: (await get(`/sweeps/${encodeURIComponent(sweep)}`)).spec };
  const mode = query.has("sweep") ? "sweep" : "job";
  const body = mode === "sweep" ? { name: "", base: {}, arms: ARMS, seeds: SEEDS } : { name: "", spec: {} };
  const preset = presets.find((one) => one.name === query.get("preset"));
  return { mode, body: preset ? fromPreset(mode, body, preset, presets) : body };
}

function likeJob(former) {
  const labels = Object.fromEntries(Object.entries(former.labels).filter(([name]) => !OWN_LABELS.includes(name)));
  return {
    ...(WITHOUT_TRAINING.includes(former.kind) ? { kind: former.kind } : {}),
    name: former.name,
    ...(Object.keys(labels).length ? { labels } : {}),
    priority: former.priority,
    spec: former.spec,
  };
}

/** The preset in place of the specification, with the data and the teacher's weights that this has. */
export function fromPreset(mode, body, preset, presets) {
  const root = mode === "sweep" ? "base" : "spec";
  const known = isSection(body[root]) ? body[root] : {};
  const { teacher, ...spec } = preset.spec;
  const weights = valueAt(known, ["teacher", "weights"]);
  const distils = preset.kind === "distill" && (mode === "job" || weights !== undefined);
  // demo_crosskd and demo_teacher belong together.
  const partner = preset.name.replace("crosskd", "teacher");
  const first = mode === "sweep" && !weights && partner !== preset.name && presets.find((one) => one.name === partner);
  return {
    ...body, name: body.name || preset.name, ...(first ? { teacher: first.spec } : {}),
    [root]: {
      ...(known.data ? { data: known.data } : {}), ...spec,
      ...(distils ? { teacher: { ...teacher, weights: weights ?? { job: "" } } } : {}),
    },
  };
}

/** What was written, as {mode, body, lines, bare}: a sweep where it has a base, a job, or (`bare`) a specification alone. */
export function fromText({ value, lines }) {
  if (isSection(value.base)) return { mode: "sweep", body: value, lines, bare: false };
  const names = Object.keys(value);
  if (names.includes("spec") || names.every((name) => name === "name"))
    return { mode: "job", body: value, lines, bare: false };
  const below = Object.fromEntries(Object.entries(lines).map(([pointer, line]) => [`/spec${pointer}`, line]));
  return { mode: "job", body: { name: "", spec: value }, lines: below, bare: true };
}

/** Whether a job's body says nothing but its specification. */
export const isAlone = ({ spec, ...rest }) => Object.values(rest).every((value) => !value);

/** The text of a specification as that of its job. */
export const belowSpec = (text) => `name: ""\nspec:\n${text.replace(/^(?=.)/gm, "  ")}`;

/** The body for the other mode, `to`: its specification is that of this one; the rest is as that mode last had it. */
export function switched(mode, body, to, methods) {
  if (mode === to) return { mode, body };
  remembered[mode] = body;
  const common = { ...remembered[to], name: body.name ?? "", ...(body.labels ? { labels: body.labels } : {}) };
  if (to === "job") return { mode: to, body: { ...common, spec: body.base ?? {} } };
  const base = body.spec ?? {};
  const arms = { alone: { distill: null }, crosskd: armPatch("crosskd", base, methods) };
  return { mode: to, body: { ...common, base, arms: common.arms ?? arms, seeds: common.seeds ?? SEEDS } };
}
