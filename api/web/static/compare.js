// Jobs side by side: which they are, their curves over each other, how their numbers differ, and what they were told.

import { byId, fill, showError } from "./dom.js";
import { get, ProblemError, query } from "./api.js";
import { compareCurves } from "./compare_curves.js";
import { compareNumbers } from "./compare_numbers.js";
import { chosenJobs, finder, MOST_JOBS, TEACHER, titlesOf } from "./compare_jobs.js";
import { specTable } from "./compare_specs.js";
import { hasEnded } from "./job_parts.js";
import { repeat } from "./live.js";
import { start } from "./page.js";
import { redrawn } from "./redraw.js";

const POLL_MILLISECONDS = 2000;
const AT_A_TIME = 3;  // requests, of a page with twenty jobs

start(async () => {
  const asked = new URLSearchParams(location.search);
  const named = [...new Set(asked.getAll("job").map((ref) => ref.trim()).filter(Boolean))];
  let refs = named.slice(0, MOST_JOBS);
  let baseline = refs.includes(asked.get("baseline")) ? asked.get("baseline") : refs[0] ?? null;
  const jobs = new Map();  // by id: {job, looked}; `problem` in place of a job that could not be read
  const drawChosen = redrawn(byId("chosen"));
  const drawSpecs = redrawn(byId("specs"));

  const curves = compareCurves({ series: asked.get("series"), smoothing: asked.get("smoothing"), changed: keepAddress });
  const numbers = compareNumbers();
  const find = finder({ add, chosen: () => refs });

  const ids = () => [...new Set(refs.map((ref) => ref.replace(TEACHER, "")))];
  const known = () => ids().map((id) => jobs.get(id)?.job).filter(Boolean);

  /** Ask for jobs that are not known yet, and for a few of those that may have changed, the longest not asked first. */
  async function look() {
    const due = ids()
      .filter((id) => { const found = jobs.get(id); return !found || (found.job && !hasEnded(found.job)); })
      .sort((a, b) => (jobs.get(a)?.looked ?? 0) - (jobs.get(b)?.looked ?? 0));
    const unknown = due.filter((id) => !jobs.has(id)).length;
    await Promise.all(due.slice(0, AT_A_TIME).map(read));
    show();
    await curves.refresh(known(), titlesOf(known()));
    if (unknown > AT_A_TIME) await look();
    numbers.show(refs, baseline, known());
  }

  async function read(id) {
    try {
      jobs.set(id, { job: await get(`/jobs/${encodeURIComponent(id)}`), looked: Date.now() });
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      jobs.set(id, { problem: error.problem?.detail ?? error.message, looked: Date.now() });
    }
  }

  function show() {
    const rows = refs.map((ref) => ({ ref, ...jobs.get(ref.replace(TEACHER, "")) }));
    const told = rows.map((row) => [row.ref, row.problem, row.job?.status, row.job?.best_ap, row.job?.teacher_ap]);
    drawChosen([told, baseline], () => chosenJobs(rows, baseline, { choose, remove, add }));
    const found = known();
    drawSpecs(found.map((job) => job.id), () => specTable(found, titlesOf(found)));
    find.offer(refs.length < 2);
  }

  const live = repeat(look, POLL_MILLISECONDS);

  function changed() {
    if (!refs.includes(baseline)) baseline = refs[0] ?? null;
    keepAddress();
    show();
    live.now();
  }

  function add(ref) {
    if (refs.includes(ref)) return;
    if (refs.length >= MOST_JOBS) {
      showError(byId("problem"), new Error(`${MOST_JOBS} jobs are the most that one page shows. Remove one first.`));
      return;
    }
    refs = [...refs, ref];
    changed();
  }

  function remove(ref) {
    refs = refs.filter((other) => other !== ref);
    fill(byId("problem"));
    changed();
  }

  function choose(ref) {
    baseline = ref;
    changed();
  }

  function keepAddress() {
    const place = { job: refs, baseline: baseline === refs[0] ? null : baseline, ...curves.chosen() };
    history.replaceState(null, "", `/web/compare${query(place)}`);
  }

  if (named.length > MOST_JOBS)
    showError(byId("problem"), new Error(`The address names ${named.length} jobs: these are the first ${MOST_JOBS}.`));
});
