// The list of jobs: a page of it, asked for again while somebody looks.

import { byId, h, showError, table } from "./dom.js";
import { get, ProblemError, query } from "./api.js";
import { ago, ap } from "./format.js";
import { actions, hasEnded, labels, progress, state } from "./job_parts.js";
import { start } from "./page.js";
import { pagedList } from "./paged_list.js";
import { redrawn } from "./redraw.js";
import { sparkline } from "./sparkline.js";

const JOBS = 50;
const POLL_MILLISECONDS = 2000;
const SPARKLINE_MILLISECONDS = 10_000;  // how old a running job's line may be
const FILTERS = ["status", "kind", "label", "owner", "name"];

const chosen = new Set();  // ids to compare
const lines = new Map();  // by id: {at, updated, values}

start((me) => {
  const redraw = redrawn(byId("jobs"));

  const live = pagedList({
    path: "/jobs", here: "/", filters: FILTERS, limit: JOBS, milliseconds: POLL_MILLISECONDS,
    async draw(page, filters) {
      const drawn = [page, filters, [...chosen], [...lines.values()].map((line) => line.at)];
      redraw(drawn, () => (page.items.length ? jobTable(page.items) : nothing(filters)));
      byId("compare").disabled = chosen.size < 2;
      await bringLines(page.items);
    },
  });

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
      { title: "Name", cell: (job) =>
        [h("a", { href: `/web/jobs/${job.id}`, class: "name" }, job.name), h("br"), labels(job)] },
      { title: "Kind", cell: (job) => job.kind },
      { title: "State", cell: (job) =>
        [state(job.status), job.failure && h("span", { class: "soft" }, ` ${job.failure.failure_class}`)] },
      { title: "Progress", cell: (job) => progress(job) },
      { title: "AP", number: true, cell: (job) => ap(job.best_ap) },
      { title: "Teacher's", number: true, cell: (job) => ap(job.teacher_ap) },
      { title: "Loss", cell: (job) =>
        lines.has(job.id) && sparkline(lines.get(job.id).values, `loss of ${job.name}`) },
      { title: "Owner", cell: (job) => job.owner },
      { title: "Submitted", cell: (job) =>
        h("time", { datetime: job.created_at, title: job.created_at }, ago(job.created_at)) },
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
      lines.set(job.id, { at: Date.now(), updated: job.updated_at, values: await lossOf(job) });
    }
  }

  byId("compare").onclick = () => location.assign(`/web/compare${query({ job: [...chosen] })}`);
});

async function lossOf(job) {
  try {
    const series = await get(`/jobs/${job.id}/metrics?key=loss&buckets=48`);
    return series.items.map((bucket) => bucket.last);
  } catch (error) {
    if (error instanceof ProblemError) return [];  // it has been deleted meanwhile; the next list lacks it
    throw error;
  }
}

function nothing(filters) {
  const filtered = Object.values(filters).some(Boolean);
  return h("p", { class: "empty" }, filtered ? "No job fits these filters."
    : ["There are no jobs yet. ", h("a", { href: "/web/new" }, "Post the first one.")]);
}
