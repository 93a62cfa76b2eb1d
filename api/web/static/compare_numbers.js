// How the numbers of jobs differ from the baseline's, with 95 % intervals (`GET /compare`), or why that cannot be said.

import { byId, fill, h, table, withCode } from "./dom.js";
import { get, ProblemError, query, Unreachable } from "./api.js";
import { ap, count, difference } from "./format.js";
import { hasEnded } from "./job_parts.js";
import { TEACHER, titlesOf } from "./compare_jobs.js";

const OTHERS = 7;  // jobs that one request compares with the baseline
const NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl"];
const LATER = 503;  // and again when the service has room

/** @returns {{show: (refs, baseline, jobs) => void}} asks only where the choice, or the state of a job, is another */
export function compareNumbers() {
  let shown = null, running = null;

  function show(refs, baseline, jobs) {
    const known = new Map(jobs.map((job) => [job.id, job]));
    const jobOf = (ref) => known.get(ref.replace(TEACHER, ""));
    const told = JSON.stringify([refs, baseline, jobs.filter(hasEnded).map((job) => job.id)]);
    if (told === shown) return;
    shown = told;
    running?.abort();
    running = new AbortController();
    if (refs.length < 2) {
      fill(byId("numbers"), refs.length > 0 && h("p", { class: "empty" }, "Add another job to compare it with."));
      return;
    }
    ask(refs, baseline, jobOf, running.signal).catch((error) => {
      if (error.name === "AbortError") return;
      shown = null;  // so that the next look asks again
      if (!(error instanceof Unreachable)) throw error;
    });
  }

  async function ask(refs, baseline, jobOf, signal) {
    const titles = titlesOf([...new Set(refs.map(jobOf).filter(Boolean))]);
    const title = (ref) =>
      `${ref.endsWith(TEACHER) ? "teacher of " : ""}${titles.get(ref.replace(TEACHER, "")) ?? ref}`;
    const again = () => {
      shown = null;
      show(refs, baseline, [...new Set(refs.map(jobOf).filter(Boolean))]);
    };
    fill(byId("numbers"), h("p", { class: "soft", role: "status" }, "Comparing …"));
    const found = await compared(refs, baseline, (ref) => jobOf(ref) !== undefined && hasEnded(jobOf(ref)), signal);
    fill(byId("numbers"), problems(found, title, again), found.jobs.size > 1 && tables(found, title));
  }

  return { show };
}

/**
 * All that can be compared with the baseline, and what speaks against the rest. As many as a request takes are asked for
 * together; only where that is refused, one by one, so that one job does not hide the others.
 */
async function compared(refs, baseline, ended, signal) {
  const others = refs.filter((ref) => ref !== baseline);
  const found = { baseline, jobs: new Map(), refused: [], images: 0, resamples: 0 };

  async function ask(some) {
    try {
      const answer = await get(`/compare${query({ job: [baseline, ...some], baseline })}`, { signal });
      for (const job of answer.jobs) found.jobs.set(job.ref, job);
      [found.images, found.resamples] = [answer.images, answer.resamples];
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      if (some.length === 1 || error.status >= 500 || error.status === 429) found.refused.push({ refs: some, error });
      else for (const ref of some) await ask([ref]);
    }
  }

  if (!ended(baseline)) {
    await ask(others.slice(0, 1));  // it is refused for the baseline's sake, whatever the others are
    return found;
  }
  const together = others.filter(ended);
  for (let place = 0; place < together.length; place += OTHERS) await ask(together.slice(place, place + OTHERS));
  for (const ref of others) if (!ended(ref)) await ask([ref]);
  return found;
}

/** Each refusal once, with its remedy; what could be answered later has a button. */
function problems({ refused, baseline }, title, again) {
  const told = new Set();
  return refused.map(({ refs, error }) => {
    const { detail, remedy, errors } = error.problem ?? { detail: error.message };
    const faults = (errors?.length ? errors : [{ detail, remedy }]).filter((fault) => !told.has(fault.detail));
    for (const fault of faults) told.add(fault.detail);
    if (!faults.length) return null;
    return h("div", { class: "notice" },
      h("strong", {}, `${refs.map(title).join(", ")}: cannot be compared with ${title(baseline)}.`),
      faults.map((fault) => [
        h("p", {}, withCode(named(fault.detail, title))), fault.remedy && h("p", {}, withCode(fault.remedy))]),
      error.status === LATER && h("button", { type: "button", onclick: again }, "Try again"));
  });
}

/** A text with jobs' titles in place of their ids; remedies keep the ids, which commands want. */
const named = (text, title) => text.replace(/\b[0-9a-f]{32}\b/g, title);

function tables(found, title) {
  const rows = [...found.jobs.values()];
  const others = rows.filter((job) => job.differences);
  const called = (job) => h("span", { class: "name" }, title(job.ref), !job.differences && h("span", { class: "soft" }, " (baseline)"));
  return [
    h("p", { class: "soft" },
      `${count(found.images)} images, ${count(found.resamples)} resamples, the same for all. In brackets: the difference `,
      "to the baseline with its 95 % interval. One that holds 0 shows no difference; this is about other images, not ",
      "about other seeds."),
    table([
      { title: "Job", cell: called },
      ...NUMBERS.map((name) => ({
        title: name, number: true, cell: (job) => figure(job.metrics[name], job.differences?.numbers[name]) })),
    ], rows, "COCO's numbers and their differences to the baseline"),
    h("details", {}, h("summary", {}, "AP by class, the greatest loss first"), table([
      { title: "Class", cell: (name) => name },
      ...rows.map((job) => ({
        title: called(job), number: true,
        cell: (name) => figure(job.per_class[name], job.differences?.classes[name]) })),
    ], classes(others), "AP by class and its differences to the baseline")),
  ];
}

/** Names of the classes, the one in which a job loses most first. */
function classes(others) {
  const worst = (name) => Math.min(...others.map((job) => job.differences.classes[name]?.value ?? Infinity));
  return Object.keys(others[0].differences.classes)
    .map((name) => [name, worst(name)])
    .sort(([a, first], [b, second]) => first - second || (a < b ? -1 : 1))
    .map(([name]) => name);
}

/** A number and, below it, its difference to the baseline with the interval. */
function figure(value, found) {
  if (!found) return ap(value);
  const verdict = found.low > 0 ? ["better", "succeeded"] : found.high < 0 ? ["worse", "failed"] : null;
  return [
    h("div", {}, verdict && [h("span", { class: `state ${verdict[1]}` }, verdict[0]), " "], ap(value)),
    h("div", { class: "soft small" }, `${difference(found.value)} [${difference(found.low)}, ${difference(found.high)}]`)];
}
