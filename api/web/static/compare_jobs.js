// Which jobs are compared: a table of them, and a search that adds more.

import { byId, fill, h, showError, table } from "./dom.js";
import { get, query } from "./api.js";
import { ago, ap } from "./format.js";
import { state } from "./job_parts.js";

export const MOST_JOBS = 20;
export const TEACHER = ":teacher";  // behind a job's id: not its best student, but the teacher that it was trained under
const FOUND = 10;  // jobs that a search lists
const ID_BEGINS = /^[0-9a-f]{4,32}$/;
const TAKEN = new Set(["step", "__proto__"]);  // names of jobs that a row of the chart has for something else

/** By id, what a job is called among `jobs`: its name, and the end of its id where others have that name too. */
export function titlesOf(jobs) {
  const count = new Map();
  for (const job of jobs) count.set(job.name, (count.get(job.name) ?? 0) + 1);
  return new Map(jobs.map((job) =>
    [job.id, count.get(job.name) > 1 || TAKEN.has(job.name) ? `${job.name} …${job.id.slice(-6)}` : job.name]));
}

/** `rows`: {ref, job} or {ref, problem}, or {ref} while nothing is known. */
export function chosenJobs(rows, baseline, { choose, remove, add }) {
  if (!rows.length) return null;
  const titles = titlesOf(rows.filter((row) => row.job).map((row) => row.job));
  const isTeacher = (row) => row.ref.endsWith(TEACHER);
  const title = (row) => `${isTeacher(row) ? "teacher of " : ""}${row.job ? titles.get(row.job.id) : row.ref}`;
  const refs = rows.map((row) => row.ref);
  return table([
    { title: "Baseline", cell: (row) => h("input", {
      type: "radio", name: "baseline", checked: row.ref === baseline, "aria-label": `Baseline: ${title(row)}`,
      onchange: () => choose(row.ref) }) },
    { title: "Job", cell: (row) => (row.job
      ? [isTeacher(row) && "teacher of ", h("a", { href: `/web/jobs/${row.job.id}`, class: "name" }, titles.get(row.job.id))]
      : row.ref) },
    { title: "Choice", cell: (row) => h("span", { class: "row tight" },
      h("button", { type: "button", "aria-label": `Remove ${title(row)}`, onclick: () => remove(row.ref) }, "Remove"),
      (row.job?.teacher_ap ?? -1) >= 0 && !isTeacher(row) && !refs.includes(row.ref + TEACHER) && h("button", {
        type: "button", "aria-label": `Add the teacher of ${title(row)}`, onclick: () => add(row.ref + TEACHER),
      }, "Add its teacher")) },
    { title: "State", cell: (row) => (row.problem ? h("span", { class: "soft" }, row.problem) : row.job && state(row.job.status)) },
    { title: "AP", number: true, cell: (row) => row.job && ap(isTeacher(row) ? row.job.teacher_ap : row.job.best_ap) },
  ], rows, "Jobs that are compared");
}

/** The search. `offer(true)` shows the newest jobs while nothing else was asked for. */
export function finder({ add, chosen }) {
  let offered = false, asked = false;

  async function search(text) {
    const pages = [];
    if (!text) pages.push(await get(`/jobs${query({ limit: FOUND })}`));
    if (ID_BEGINS.test(text)) pages.push(await get(`/jobs${query({ id: text, limit: FOUND })}`));
    if (text) pages.push(await get(`/jobs${query({ name: text, limit: FOUND })}`));
    const found = pages.flatMap((page) => page.items);
    return found.filter((job, place) => found.findIndex((other) => other.id === job.id) === place);
  }

  async function show(text) {
    let found;
    try {
      found = await search(text);
    } catch (error) {
      showError(byId("found"), error);
      return;
    }
    const fresh = found.filter((job) => !chosen().includes(job.id));
    if (text && fresh.length === 1) {
      fill(byId("found"));
      byId("job").value = "";
      add(fresh[0].id);
      return;
    }
    fill(byId("found"), list(fresh, found, text));
  }

  function list(fresh, found, text) {
    if (!fresh.length) {
      if (found.length) return h("p", { class: "notice" }, "It is compared already.");
      return h("p", { class: "notice" }, text ? "No job has this name, or an id that begins so. Names are looked for as they are, in full."
        : ["There are no jobs yet. ", h("a", { href: "/web/new" }, "Post the first one.")]);
    }
    return table([
      { title: "Choice", cell: (job) => h("button", {
        type: "button", "aria-label": `Add ${job.name} ${job.id}`,
        onclick: (event) => { event.target.disabled = true; add(job.id); } }, "Add") },
      { title: text ? "Found" : "Newest jobs", cell: (job) => h("span", { class: "name" }, job.name) },
      { title: "Kind", cell: (job) => job.kind },
      { title: "State", cell: (job) => state(job.status) },
      { title: "AP", number: true, cell: (job) => ap(job.best_ap) },
      { title: "Submitted", cell: (job) => h("time", { datetime: job.created_at, title: job.created_at }, ago(job.created_at)) },
    ], fresh, "Jobs to add");
  }

  byId("find").onsubmit = (event) => {
    event.preventDefault();
    asked = true;
    show(byId("job").value.trim());
  };
  return {
    offer(wanted) {
      if (wanted && !offered && !asked) {
        offered = true;
        show("");
      }
    },
  };
}
