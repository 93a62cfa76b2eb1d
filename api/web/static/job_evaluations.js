// What the evaluations of a job say: COCO's numbers beside the teacher's, AP by class, and how it went.

import { h, table } from "./dom.js";
import { ap, count, difference, significant } from "./format.js";

const NUMBERS = {
  AP: "IoU 0.50:0.95", AP50: "IoU 0.50", AP75: "IoU 0.75", APs: "small", APm: "medium", APl: "large",
  AR1: "1 detection", AR10: "10 detections", AR100: "100 detections", ARs: "small", ARm: "medium", ARl: "large",
};

/** The best of a student's evaluations; of an evaluation job, its only one. */
const bestOf = (students) =>
  students.filter((one) => one.best).at(-1)
  ?? students.reduce((best, one) => (best && best.metrics.AP >= one.metrics.AP ? best : one), null);

const known = (value) => value !== null && value !== undefined && value >= 0;
const gap = (a, b) => (known(a) && known(b) ? a - b : null);

/** Tables of `evaluations`, by step. */
export function evaluationsOf(job, evaluations) {
  const students = evaluations.filter((one) => one.model === "student");
  const teacher = evaluations.filter((one) => one.model === "teacher").at(-1) ?? null;
  const best = bestOf(students);
  if (!best && !teacher) {
    return h("p", { class: "empty" }, job.kind === "export" ? "An export is not evaluated."
      : job.kind === "import" ? "An import is not evaluated."
      : "There is no evaluation yet. It comes when the first epochs that the specification asks for are done.");
  }
  return [
    h("div", { class: "columns" },
      h("div", {}, h("h3", {}, "COCO's 12 numbers"), numbers(best, teacher)),
      h("div", {},
        h("h3", {}, "AP by class", best && h("span", { class: "soft" }, ` of the best, step ${count(best.step)}`)),
        classes(best, teacher))),
    students.length > 0 && [h("h3", {}, "Over time"), overTime(students)]];
}

function numbers(best, teacher) {
  const rows = Object.entries(NUMBERS).map(([name, what]) =>
    ({ name, what, student: best?.metrics[name], teacher: teacher?.metrics[name] }));
  return table([
    { title: "Number", cell: (row) => [h("strong", {}, row.name), " ", h("span", { class: "soft" }, row.what)] },
    best && { title: "Student", number: true, cell: (row) => ap(row.student) },
    teacher && { title: "Teacher", number: true, cell: (row) => ap(row.teacher) },
    best && teacher && { title: "Difference", number: true, cell: (row) => difference(gap(row.student, row.teacher)) },
  ].filter(Boolean), rows, "COCO's 12 numbers");
}

function classes(best, teacher) {
  const [of, other] = best ? [best, teacher] : [teacher, null];
  const names = Object.keys(of.per_class);
  if (names.length === 0) return h("p", { class: "soft" }, "Nothing was reported of single classes.");
  const rows = names.map((name) => ({
    name, AP: of.per_class[name], teacher: other?.per_class[name], more: of.class_metrics?.[name],
    difference: gap(of.per_class[name], other?.per_class[name]),
  }));
  // Where most is lost to the teacher comes first, or what is found worst; classes without ground truth last.
  const order = (row) => row.difference ?? (known(row.AP) ? row.AP : 2);
  rows.sort((a, b) => order(a) - order(b));
  const more = rows.some((row) => row.more);
  const made = table([
    { title: "Class", cell: (row) => h("span", { class: "name" }, row.name) },
    { title: best ? "Student" : "Teacher", number: true, cell: (row) => ap(row.AP) },
    other && { title: "Teacher", number: true, cell: (row) => ap(row.teacher) },
    other && { title: "Difference", number: true, cell: (row) => difference(row.difference) },
    ...(more ? ["AP50", "AP75", "AR100"] : []).map((name) =>
      ({ title: name, number: true, cell: (row) => ap(row.more?.[name]) })),
  ].filter(Boolean), rows, "AP by class");
  made.classList.add("tall");
  return made;
}

function overTime(students) {
  const made = table([
    { title: "Step", number: true, cell: (one) => count(one.step) },
    { title: "Epoch", number: true, cell: (one) => significant(one.epoch, 3) },
    { title: "AP", number: true, cell: (one) => ap(one.metrics.AP) },
    { title: "AP50", number: true, cell: (one) => ap(one.metrics.AP50) },
    { title: "AP75", number: true, cell: (one) => ap(one.metrics.AP75) },
    { title: "Best so far", cell: (one) => one.best && "best" },
    { title: "Images", number: true, cell: (one) => count(one.images) },
    { title: "Boxes", number: true, cell: (one) => count(one.boxes) },
    { title: "Boxes left out", number: true, cell: (one) => count(one.boxes_left_out) },
    { title: "Seconds", number: true, cell: (one) => significant(one.seconds, 3) },
    { title: "ms an image", number: true, cell: (one) => significant(one.milliseconds_per_image, 3) },
  ], students.toReversed(), "Evaluations of the student, newest first");
  made.classList.add("tall");
  return made;
}
