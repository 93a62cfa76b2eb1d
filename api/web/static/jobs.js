// The list of jobs: a page of it, asked for again while somebody looks.

import { byId, fill, h, showError, table } from "./dom.js";
import { get, ProblemError, query } from "./api.js";
import { ago, ap } from "./format.js";
import { actions, hasEnded, labels, progress, state } from "./job_parts.js";
import { repeat } from "./live.js";
import { start } from "./page.js";
import { sparkline } from "./sparkline.js";

const JOBS = 50;
const POLL_MILLISECONDS = 2000;
const SPARKLINE_MILLISECONDS = 10_000;  // how old a running job's line may be
const FILTERS = ["status", "kind", "label", "owner", "name"];

const chosen = new Set();  // ids to compare
const lines = new Map();  // by id: {at, updated, values}

start(async (me) => {
  const asked = new URLSearchParams(location.search);
  for (const name of FILTERS) byId(name).value = asked.get(name) ?? "";
  const former = [];  // `after` of the pages before this one
  let after = asked.get("after"), shown = "";

  async function show() {
    const filters = Object.fromEntries(FILTERS.map((name) => [name, byId(name).value.trim()]));
    let page;
    try {
      page = await get(`/jobs${query({ ...filters, after, limit: JOBS })}`);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showError(byId("problem"), error);
      return;
    }
    fill(byId("problem"));
    const told = JSON.stringify(page) + [...chosen] + [...lines.values()].map((line) => line.at);
    if (told !== shown) draw(page, filters);
    shown = told;
    bringLines(page.items);
  }

  const live = repeat(show, POLL_MILLISECONDS);

  function draw(page, filters) {
    const focused = document.activeElement?.getAttribute("aria-label");
    fill(byId("jobs"), page.items.length ? jobTable(page.items) : nothing(filters));
    if (focused) byId("jobs").querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    byId("older").hidden = !page.has_more;
    byId("newer").hidden = !after;
    byId("older").onclick = () => turn(page.items.at(-1).id);
    byId("compare").disabled = chosen.size < 2;
  }

  function jobTable(jobs) {
    const failed = (error) => showError(byId("problem"), error);
    return table([
      { title: h("span", { class: "hidden" }, "Compare"), cell: (job) => h("input", {
        type: "checkbox", checked: chosen.has(job.id), "aria-label": `Compare ${job.name} ${job.id}`,
        onchange: (event) => {
          if (event.target.checked) chosen.add(job.id);
          else chosen.delete(job.id);
          byId("compare").disabled = chosen.size < 2;
        } }) },
      { title: "Name", cell: (job) => [h("a", { href: `/web/jobs/${job.id}`, class: "name" }, job.name), h("br"), labels(job)] },
      { title: "Kind", cell: (job) => job.kind },
      { title: "State", cell: (job) => [state(job.status), job.failure && h("span", { class: "soft" }, ` ${job.failure.failure_class}`)] },
      { title: "Progress", cell: (job) => progress(job) },
      { title: "AP", number: true, cell: (job) => ap(job.best_ap) },
      { title: "Teacher's", number: true, cell: (job) => ap(job.teacher_ap) },
      { title: "Loss", cell: (job) => lines.has(job.id) && sparkline(lines.get(job.id).values, `loss of ${job.name}`) },
      { title: "Owner", cell: (job) => job.owner },
      { title: "Submitted", cell: (job) => h("time", { datetime: job.created_at, title: job.created_at }, ago(job.created_at)) },
      { title: "Actions", cell: (job) => actions(job, me, live.now, failed) },
    ], jobs, "Jobs, newest first");
  }

  async function bringLines(jobs) {
    let brought = 0;
    for (const job of jobs) {
      const line = lines.get(job.id);
      if (!job.started_at || !["train", "distill"].includes(job.kind) || line?.updated === job.updated_at) continue;
      if (line && !hasEnded(job) && Date.now() - line.at < SPARKLINE_MILLISECONDS) continue;
      if (brought >= 5) return;  // the rest with the next look: a page must not ask for fifty series at once
      brought += 1;
      const series = await get(`/jobs/${job.id}/metrics?key=loss&buckets=48`);
      lines.set(job.id, { at: Date.now(), updated: job.updated_at, values: series.items.map((bucket) => bucket.last) });
    }
  }

  function turn(to) {
    former.push(after);
    move(to);
  }

  function move(to) {
    after = to;
    const filters = Object.fromEntries(FILTERS.map((name) => [name, byId(name).value.trim()]));
    history.replaceState(null, "", `/${query({ ...filters, after })}`);
    live.now();
  }

  byId("newer").onclick = () => move(former.pop() ?? null);
  byId("filters").onsubmit = (event) => {
    event.preventDefault();
    former.length = 0;
    move(null);
  };
  byId("compare").onclick = () => location.assign(`/web/compare${query({ job: [...chosen] })}`);
});

function nothing(filters) {
  const filtered = Object.values(filters).some(Boolean);
  return h("p", { class: "empty" }, filtered ? "No job fits these filters." : ["There are no jobs yet. ", h("a", { href: "/web/new" }, "Post the first one.")]);
}
