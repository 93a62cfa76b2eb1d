// The tables of a sweep: its arms, the points of its grid, sizes and cost, classes, and its jobs.

import { h, table, withCode } from "./dom.js";
import { ap, count, duration, percent, significant } from "./format.js";
import { progress, state } from "./job_parts.js";
import { interval, outcome, pointOfGrid, points, spread } from "./sweep_parts.js";

const LOST = ["failed", "cancelled", "deleted"];

const nameOf = (arm) => [arm.arm, arm.baseline && h("span", { class: "soft" }, " (baseline)")];
const bestFirst = (results) => [...results].sort((a, b) => (b.ap?.mean ?? -1) - (a.ap?.mean ?? -1));

const COMPARED = [
  { title: "Verdict", cell: (row) => row.verdict && outcome(row.verdict.outcome) },
  { title: "AP ± standard error", number: true, cell: (row) => (row.teacher ? ap(row.ap) : spread(row.ap)) },
  { title: "Difference (AP points)", number: true, cell: (row) => row.difference && points(row.difference.mean) },
  { title: "95 % interval", number: true, cell: (row) => row.difference && interval(row.difference.low, row.difference.high) },
  { title: "Pairs", number: true, cell: (row) => row.difference?.pairs },
];

/** The arms, best mean first, under the teacher. */
export function armTable(sweep) {
  const teacher = sweep.teacher?.ap == null ? [] : [{ teacher: true, ap: sweep.teacher.ap }];
  return [h("h2", {}, "Arms"), table([
    { title: "Arm", cell: (arm) => (arm.teacher ? teacherName(sweep) : nameOf(arm)) },
    ...COMPARED,
    { title: "Teacher's gap closed", number: true, cell: (arm) => !arm.teacher && !arm.baseline && percent(arm.gap_closed) },
    { title: "Jobs", number: true, cell: (arm) => !arm.teacher && `${arm.finished} of ${arm.jobs}` },
  ], [...teacher, ...bestFirst(sweep.results)], "Arms, best mean AP first")];
}

const teacherName = (sweep) => (sweep.teacher.job && sweep.teacher.status !== "deleted"
  ? h("a", { href: `/web/jobs/${sweep.teacher.job}` }, "teacher") : "teacher");

/** Each point of the grid by itself, of the arms that have several. */
export function pointTable(sweep) {
  const rows = sweep.results.flatMap((arm) => arm.points.map((point) => ({ ...point, of: arm })));
  if (!rows.length) return null;
  return [h("h2", {}, "Points of the grid"), table([
    { title: "Arm", cell: (row) => nameOf(row.of) },
    { title: "Point", cell: (row) => pointOfGrid(row.point) },
    ...COMPARED,
  ], bestFirst(rows), "Points of the grid, best mean AP first")];
}

export function costTable(sweep) {
  const rows = bestFirst(sweep.results).filter((arm) => arm.finished);
  if (!rows.length) return null;
  const size = (name) => ({ title: `AP ${name}`, number: true, cell: (arm) => spread(arm.by_size[name]) });
  return [h("h2", {}, "Sizes, and what they cost"), table([
    { title: "Arm", cell: nameOf },
    { title: "AP50", number: true, cell: (arm) => spread(arm.ap50) },
    { title: "AP75", number: true, cell: (arm) => spread(arm.ap75) },
    ...["small", "medium", "large"].map(size),
    { title: "Parameters", number: true, cell: (arm) => count(arm.parameters) },
    { title: "MB", number: true, cell: (arm) => significant(arm.megabytes, 3) },
    { title: "ms an image", number: true, cell: (arm) => spread(arm.milliseconds, 1) },
    { title: "Training", number: true, cell: (arm) => duration(arm.training_seconds?.mean) },
  ], rows, "Sizes and cost of the arms")];
}

/** `classes`: of `byClass` (sweep_rows.js). */
export function classTable(sweep, classes) {
  if (!classes.length) return null;
  return h("details", {}, h("summary", {}, "AP by class, in figures"), table([
    { title: "Class", cell: (row) => row.name },
    ...sweep.results.map((arm, number) => ({ title: nameOf(arm), number: true, cell: (row) => ap(row.values[number]) })),
  ], classes, "AP by class, the greatest loss to the baseline first"));
}

/** Without the sweep's own name, with which the names of all its jobs begin. */
function jobName(child, sweep) {
  const begins = `${sweep.name} / `;
  const name = child.name.startsWith(begins) ? child.name.slice(begins.length) : child.name;
  return child.status === "deleted" ? name : h("a", { href: `/web/jobs/${child.job}`, class: "name" }, name);
}

/** Those that did not end well, each with the reason and with what to do. */
export function failedJobs(sweep) {
  const lost = sweep.children.filter((child) => LOST.includes(child.status));
  if (!lost.length) return null;
  return [h("h2", {}, "Not counted, for they did not end well"), h("ul", {}, lost.map((child) => h("li", {},
    jobName(child, sweep), " ", state(child.status),
    child.failure && child.status === "failed" && [
      h("div", {}, `${child.failure.failure_class}: ${child.failure.message}`),
      child.failure.remedy && h("div", { class: "soft" }, withCode(child.failure.remedy))])))];
}

export const childTable = (sweep) => [h("h2", {}, "Jobs"), table([
  { title: "Job", cell: (child) => jobName(child, sweep) },
  { title: "State", cell: (child) => [state(child.status),
    child.failure && h("span", { class: "soft" }, ` ${child.failure.failure_class}`)] },
  { title: "Progress", cell: progress },
  { title: "AP", number: true, cell: (child) => ap(child.best_ap) },
], sweep.children, "Jobs of the sweep")];
