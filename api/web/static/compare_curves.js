// The same series of several jobs over each other. Long ones come as buckets, in which spikes survive.

import { byId, fill, h } from "./dom.js";
import { get } from "./api.js";
import { hasEnded } from "./job_parts.js";
import { liveChart } from "./redraw.js";
import { smoothed } from "./smoothing.js";

const BUCKETS = 400;
const AT_A_TIME = 3;  // requests
const AP = "AP";
const DRAWINGS = { [AP]: "overlay_ap", loss: "overlay_loss" };  // their axes are named; all others have "value"
const MOST_TOLD = 5;  // points that are not finite, in words

/**
 * Controls and chart of the page. `changed()` after the reader chose another series or smoothing.
 * @returns {{refresh: (jobs, titles: Map) => Promise<void>, chosen: () => object}}
 */
export function compareCurves({ series, smoothing, changed }) {
  const kept = new Map();  // by job: {keys: {updated, found}, rows: Map by key of {updated, rows}}
  let wanted = series ?? AP, jobs = [], titles = new Map(), chart = null, drawn = "";
  if (smoothing !== null && Number(smoothing) >= 0 && Number(smoothing) <= 0.99) byId("smoothing").value = smoothing;
  tellWeight();

  const of = (job) => {
    if (!kept.has(job.id)) kept.set(job.id, { keys: { updated: null, found: [] }, rows: new Map() });
    return kept.get(job.id);
  };

  async function bring(job) {
    const mine = of(job);
    if (!job.started_at || !["train", "distill"].includes(job.kind)) return;
    if (mine.keys.updated !== job.updated_at && !(mine.keys.found.length && !hasEnded(job))) {
      const { items } = await get(`/jobs/${job.id}/metrics?buckets=1`);
      mine.keys = { updated: job.updated_at, found: items.map((bucket) => bucket.key) };
    }
    const key = wanted;
    if (mine.rows.get(key)?.updated === job.updated_at) return;
    mine.rows.set(key, { updated: job.updated_at, rows: await rowsOf(job, key) });
  }

  async function refresh(now, called) {
    [jobs, titles] = [now, called];
    const waiting = [...jobs];
    const takeOne = async () => {
      for (let job = waiting.shift(); job; job = waiting.shift()) await bring(job);
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, takeOne));
    offer();
    await draw();
  }

  /** The series that there are: those of all jobs first. */
  function offer() {
    const trained = jobs.filter((job) => of(job).keys.found.length);
    const keys = [...new Set(trained.flatMap((job) => of(job).keys.found))]
      .sort((a, b) => (b === "loss") - (a === "loss") || (a < b ? -1 : 1));
    const all = keys.filter((key) => trained.every((job) => of(job).keys.found.includes(key)));
    const some = keys.filter((key) => !all.includes(key));
    if (![AP, ...keys].includes(wanted) && trained.length) wanted = AP;
    const told = JSON.stringify([all, some, wanted]);
    if (told === byId("series").dataset.told) return;
    byId("series").dataset.told = told;
    const option = (key, title = key) => h("option", { value: key, selected: key === wanted }, title);
    fill(byId("series"), option(AP, "COCO AP"), all.map((key) => option(key)),
      some.length > 0 && h("optgroup", { label: "Of some jobs" }, some.map((key) => option(key))));
  }

  async function draw() {
    const weight = Number(byId("smoothing").value);
    const lines = jobs.map((job) => ({
      title: titles.get(job.id), rows: smoothed(of(job).rows.get(wanted)?.rows ?? [], weight) }));
    if (chart && drawn !== wanted) {
      chart.remove();
      chart = null;
    }
    const rows = {
      lines: lines.flatMap(({ title, rows }) => rows.filter((row) => row.smooth !== undefined)
        .map((row) => ({ job: title, step: row.step, value: row.value, smooth: row.smooth }))),
      broken: lines.flatMap(({ title, rows }) => rows.filter((row) => row.broken.length)
        .map((row) => ({ job: title, step: row.step, value: row.broken.join(", ") }))),
    };
    tellBroken(rows.broken);
    byId("no-curves").hidden = rows.lines.length + rows.broken.length > 0 || jobs.length === 0;
    drawn = wanted;
    chart ??= liveChart(byId("curves"), DRAWINGS[wanted] ?? "overlay", wanted === AP ? "COCO AP of the student" : wanted, "");
    await chart.draw(rows);
  }

  function tellWeight() {
    fill(byId("smoothing-told"), byId("smoothing").value);
  }

  byId("series").onchange = async () => {
    wanted = byId("series").value;
    changed();
    await refresh(jobs, titles);
  };
  byId("smoothing").oninput = () => {
    tellWeight();
    draw();
  };
  byId("smoothing").onchange = changed;
  return {
    refresh,
    chosen: () => ({ series: wanted === AP ? null : wanted, smoothing: Number(byId("smoothing").value) || null }),
  };
}

/** Rows of a series by step: {step, value, broken: what is not finite, spelt}. */
async function rowsOf(job, key) {
  if (key === AP) {
    const { items } = await get(`/jobs/${job.id}/evaluations`);
    return items.filter((one) => one.model === "student" && one.metrics.AP >= 0)
      .map((one) => ({ step: one.step, value: one.metrics.AP, broken: [] }));
  }
  const { items } = await get(`/jobs/${job.id}/metrics?key=${encodeURIComponent(key)}&buckets=${BUCKETS}`);
  return items.map((bucket) => ({ step: bucket.last_step, value: bucket.last, broken: bucket.non_finite }));
}

function tellBroken(broken) {
  const told = broken.slice(0, MOST_TOLD).map((row) => `${row.job}: ${row.value} at step ${row.step}`);
  if (broken.length > MOST_TOLD) told.push(`and ${broken.length - MOST_TOLD} more`);
  fill(byId("broken"), told.length > 0 && `Not finite (crosses): ${told.join("; ")}.`);
}
