// What a dry run answers: the faults that no field has, what is good to know, and the job or the jobs as they would be.

import { fill, h, table } from "./dom.js";
import { duration } from "./format.js";
import { faultLines, withNames } from "./spec_field.js";
import { toYaml } from "./yaml.js";

/** A body that would be refused. `rest`: the faults without a field; `line(pointer)` of the YAML, if it is known. */
export function showRefusal(place, problem, rest, line) {
  const listed = problem.errors?.length ?? 0, elsewhere = listed - rest.length;
  const counted = `This would be refused: ${listed === 1 ? "one fault" : `${listed} faults`}.`;
  fill(place, h("div", { class: "error" },
    h("p", {}, h("strong", {}, listed ? counted : withNames(problem.detail))),
    !listed && problem.remedy && h("p", {}, problem.remedy),
    elsewhere > 0 && h("p", {}, elsewhere === 1 ? "One stands at its field." : `${elsewhere} stand at their fields.`),
    rest.length > 0 && h("ul", {}, rest.map((fault) =>
      h("li", {}, line(fault.pointer) && `Line ${line(fault.pointer)}: `, faultLines([fault], null))))));
}

/** A body that would be taken. */
export function showPlan(place, mode, plan) {
  const sweep = mode === "sweep";
  const words = sweep ? sweepText(plan) : `This would be taken as a job of the kind ${plan.kind}.`;
  fill(place, h("p", { class: "notice" }, words), told(plan), sweep ? jobsTable(plan.jobs) : wholeSpec(plan.spec));
}

const wholeSpec = (spec) => h("details", {},
  h("summary", {}, "The specification with every default"), h("pre", { tabindex: 0 }, toYaml(spec)));

function told(plan) {
  const notes = plan.notes.map((note) => h("li", {}, note));
  const warnings = plan.warnings.map((warning) => h("li", {},
    h("strong", {}, "Warning: "), faultLines([warning], null)));
  return warnings.length + notes.length > 0 && h("ul", {}, warnings, notes);
}

function sweepText(plan) {
  const time = plan.estimated_seconds === null ? "" : ` About ${duration(plan.estimated_seconds)} one after the other:`;
  const jobs = `This would be taken as ${plan.jobs.length} jobs, compared with the arm ${plan.baseline}.`;
  return `${jobs}${time} ${plan.estimate}`;
}

const jobsTable = (jobs) => table([
  { title: "Job", cell: (job) => job.name }, { title: "Kind", cell: (job) => job.kind },
  { title: "Seed", number: true, cell: (job) => job.seed },
  { title: "Estimate", number: true, cell: (job) => duration(job.estimated_seconds) },
], jobs, "Jobs of the sweep");
