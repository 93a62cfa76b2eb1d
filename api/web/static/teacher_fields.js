// Where a teacher comes from: a job, found by its name, a file of weights, or a training that a sweep begins with.

import { get, query } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { ago, ap } from "./format.js";
import { valueAt } from "./paths.js";
import { faultPlace, field } from "./spec_field.js";

const FOUND = 50;  // jobs of which one is chosen: who finds more writes more of a name
const SEARCH_MILLISECONDS = 250;
const KINDS = { none: "none: it learns from the data alone", job: "the weights of a job", file: "a file of weights" };
const FIRST = "trained first, by this sweep";

/**
 * @param form {mode(), root(), presets, schema, body(), change(changes)}; `root()`: where the student's specification
 *   lies in the body; `change` takes pairs of a path and its value
 */
export function teacherFields({ mode, root, presets, schema, body, change }) {
  const kind = h("select", { id: "teacher-kind", onchange: () => choose(kind.value) });
  const search = h("input", { id: "teacher-search", type: "search", autocomplete: "off", placeholder: "part of a name, or an id",
    oninput: () => {
      clearTimeout(waiting);
      waiting = setTimeout(findJobs, SEARCH_MILLISECONDS);
    } });
  const jobs = h("select", { id: "teacher-job", size: 5, "aria-describedby": "teacher-job-fault",
    onchange: () => jobs.value && change([[weightsPath(), { job: jobs.value }]]) });
  const jobFault = faultPlace("teacher-job-fault", jobs);
  const more = h("span", { class: "help", role: "status" });
  const trainings = presets.filter((one) => one.kind === "train");
  const preset = h("select", { id: "teacher-preset", onchange: () => trainFirst(preset.value) },
    h("option", { value: "" }, "as in the YAML"),
    trainings.map(({ name, title }) => h("option", { value: name }, `${name} – ${title}`)));
  const file = field({
    path: () => [...weightsPath(), "file"], label: "File of weights",
    described: { type: "string", description: "In a data root, or relative to one: .safetensors, .pth or .pt." },
    edit: (path, value) => change([[path, value ?? ""]]),
  });
  const epochs = field({
    path: () => ["teacher", "schedule", "epochs"], label: "Epochs of the teacher",
    described: schema.field("sweep", ["teacher", "schedule", "epochs"]),
    edit: (path, value) => change([[path, value]]),
  });
  const parts = {
    job: h("div", {},
      h("div", { class: "field" }, h("label", { for: "teacher-search" }, "Find a job by name"), search, more),
      h("div", { class: "field" },
        h("label", { for: "teacher-job" }, "Job whose weights teach"), jobs, jobFault.element)),
    file: file.element,
    first: h("div", {},
      h("div", { class: "field" }, h("label", { for: "teacher-preset" }, "Teacher to train"), preset), epochs.element),
  };
  const element = h("div", {},
    h("div", { class: "field" }, h("label", { for: "teacher-kind" }, "Teacher"), kind), Object.values(parts));
  let known = null;  // jobs that were found
  let asked = null, waiting = null;  // what they were asked for by, and a timer until that is asked again

  const weightsPath = () => [root(), "teacher", "weights"];

  function kindOf(value) {
    const weights = valueAt(value, weightsPath());
    if (weights && Object.hasOwn(weights, "file")) return "file";
    if (weights) return "job";
    return mode() === "sweep" && value.teacher ? "first" : "none";
  }

  function choose(wanted) {
    const ofBase = [root(), "teacher"], distill = [root(), "distill"], one = mode() === "job";
    const noneFirst = one ? [] : [[["teacher"], undefined]];
    if (wanted === "none") change([...noneFirst, [ofBase, undefined], ...(one ? [[distill, undefined]] : [])]);
    else if (wanted === "first") change([[ofBase, undefined], [["teacher"], presetSpec("demo_teacher")]]);
    else {
      const methods = one ? [[distill, valueAt(body(), distill) ?? {}]] : [];
      change([...noneFirst, [weightsPath(), { [wanted]: "" }], ...methods]);
    }
  }

  const presetSpec = (name) => presets.find((one) => one.name === name)?.spec;

  function trainFirst(name) {
    if (name) change([[["teacher"], presetSpec(name)]]);
  }

  function showJobFaults(faults) {
    const missing = valueAt(body(), [...weightsPath(), "job"]) === "";
    const none = [{ pointer: "", detail: "No job is chosen.", remedy: "Choose one of the list." }];
    const told = missing && faults.length ? none : faults;
    jobFault.show(told, missing ? "" : `/${root()}/teacher/weights/job`);
  }

  /** The newest jobs that fit what is written, of all that there are. */
  async function findJobs() {
    clearTimeout(waiting);
    const wanted = search.value.trim();
    if (wanted === asked) return;
    asked = wanted;
    try {
      const kind = ["train", "distill"];
      const page = await get(`/jobs${query({ status: "succeeded", kind, search: wanted, limit: FOUND })}`);
      if (wanted !== asked) return;
      known = page.items;
      more.textContent = page.has_more ? `The newest ${FOUND} are listed: write more of a name to find others.` : "";
      jobFault.show([], "");
      drawJobs();
    } catch (error) {
      if (wanted !== asked) return;
      asked = null;  // to be asked again
      jobFault.show([{ pointer: "", detail: error.message }], "");
    }
  }

  function drawJobs() {
    const chosen = valueAt(body(), [...weightsPath(), "job"]) ?? "";
    const options = (known ?? []).map(({ id, name, best_ap, created_at }) =>
      h("option", { value: id }, `${name} – AP ${ap(best_ap)}, ${ago(created_at)}, ${id.slice(0, 8)}`));
    if (chosen && !options.some((option) => option.value === chosen))
      options.unshift(h("option", { value: chosen }, chosen));
    const nothing = h("option", { value: "", disabled: true }, known ? "no job that succeeded fits" : "…");
    fill(jobs, options.length ? options : nothing);
    jobs.value = chosen;
  }

  return {
    element,
    fill(value) {
      const now = kindOf(value);
      const kinds = Object.entries(mode() === "sweep" ? { ...KINDS, first: FIRST } : KINDS);
      fill(kind, kinds.map(([name, title]) => h("option", { value: name }, title)));
      kind.value = now;
      for (const [name, part] of Object.entries(parts)) part.hidden = name !== now;
      if (now === "job" && known === null) findJobs();
      if (now === "job") drawJobs();
      file.fill(value);
      epochs.fill(value);
      const same = presets.find((one) => now === "first" && JSON.stringify(one.spec) === JSON.stringify(value.teacher));
      preset.value = same?.name ?? "";
    },
    places: () => (kindOf(body()) === "job"
      ? [{ pointer: () => `/${root()}/teacher/weights`, show: showJobFaults }]
      : [file, epochs]),
    focus: () => byId("teacher-kind").focus(),
  };
}
