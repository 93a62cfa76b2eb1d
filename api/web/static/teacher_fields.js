// Where a teacher comes from: a job, found by its name, a file of weights, or a training that a sweep begins with.

import { get } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { ago, ap } from "./format.js";
import { valueAt } from "./paths.js";
import { faultPlace, field } from "./spec_field.js";

const FOUND = 200;  // jobs of which one is chosen
const KINDS = { none: "none: it learns from the data alone", job: "the weights of a job", file: "a file of weights" };
const FIRST = "trained first, by this sweep";

/**
 * @param form {mode(), root(), presets, schema, body(), change(changes)}; `root()`: where the student's specification
 *   lies in the body; `change` takes pairs of a path and its value
 */
export function teacherFields({ mode, root, presets, schema, body, change }) {
  const kind = h("select", { id: "teacher-kind", onchange: () => choose(kind.value) });
  const search = h("input", { id: "teacher-search", type: "search", autocomplete: "off", placeholder: "part of a name",
    oninput: () => drawJobs() });
  const jobs = h("select", { id: "teacher-job", size: 5, "aria-describedby": "teacher-job-fault",
    onchange: () => jobs.value && change([[weightsPath(), { job: jobs.value }]]) });
  const jobFault = faultPlace("teacher-job-fault", jobs);
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
      h("div", { class: "field" }, h("label", { for: "teacher-search" }, "Find a job by name"), search),
      h("div", { class: "field" },
        h("label", { for: "teacher-job" }, "Job whose weights teach"), jobs, jobFault.element)),
    file: file.element,
    first: h("div", {},
      h("div", { class: "field" }, h("label", { for: "teacher-preset" }, "Teacher to train"), preset), epochs.element),
  };
  const element = h("div", {},
    h("div", { class: "field" }, h("label", { for: "teacher-kind" }, "Teacher"), kind), Object.values(parts));
  let known = null;

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

  async function loadJobs() {
    if (known) return;
    known = [];
    const page = await get(`/jobs?status=succeeded&limit=${FOUND}`);
    known = page.items.filter((job) => ["train", "distill"].includes(job.kind));
    drawJobs();
  }

  function drawJobs() {
    const wanted = search.value.trim().toLowerCase(), chosen = valueAt(body(), [...weightsPath(), "job"]) ?? "";
    const fits = ({ id, name }) => id === chosen || name.toLowerCase().includes(wanted) || id.startsWith(wanted);
    const found = (known ?? []).filter(fits);
    const options = found.map(({ id, name, best_ap, created_at }) =>
      h("option", { value: id }, `${name} – AP ${ap(best_ap)}, ${ago(created_at)}, ${id.slice(0, 8)}`));
    if (chosen && !found.some((job) => job.id === chosen)) options.unshift(h("option", { value: chosen }, chosen));
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
      if (now === "job") loadJobs().catch((error) => jobFault.show([{ pointer: "", detail: error.message }], ""));
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
