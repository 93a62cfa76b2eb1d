// One sweep: the verdict in words, then the figures it rests on, then its jobs; asked for again while it runs.

import { byId, fill, h, showError } from "./dom.js";
import { get, ProblemError } from "./api.js";
import { ago, count } from "./format.js";
import { labels } from "./job_parts.js";
import { repeat } from "./live.js";
import { idInPath, start } from "./page.js";
import { liveChart, redrawn } from "./redraw.js";
import { sweepActions } from "./sweep_actions.js";
import { apRows, byClass, classRows, differenceRows } from "./sweep_rows.js";
import { jobsByState, sweepHasEnded, sweepState } from "./sweep_parts.js";
import { armTable, childTable, classTable, costTable, failedJobs, pointTable } from "./sweep_tables.js";

const POLL_MILLISECONDS = 2000;
const ENDED_MILLISECONDS = 20_000;  // of one that has ended: a job of it may still be retried, or deleted
const MILLISECONDS_PER_JOB = 50;  // one of 200 jobs is asked for every ten seconds

start(async (me) => {
  const id = idInPath("/web/sweeps/");
  const address = `/sweeps/${encodeURIComponent(id)}`;
  const draw = Object.fromEntries(
    ["summary", "actions", "answer", "arms", "points", "sizes", "classes", "failed", "children", "spec"]
      .map((name) => [name, redrawn(byId(name))]));
  const charts = {
    differences: liveChart(byId("chart-differences"), "differences", "Difference to the baseline",
      "Mean over pairs of the same seed, with its 95 % t-interval. An arm helps or hurts only where that leaves out 0."),
    ap: liveChart(byId("chart-ap"), "sweep_ap", "What each arm reached",
      "A ring for each job, the mean with its standard error, and the teacher as a dashed line."),
    classes: liveChart(byId("chart-classes"), "sweep_classes", "AP by class",
      "The greatest loss to the baseline first."),
  };
  let next = 0;  // when to ask again

  async function look() {
    if (Date.now() < next) return;
    let sweep;
    try {
      sweep = await get(address);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showError(byId("problem"), error);
      next = error.status === 404 ? Infinity : 0;
      return;
    }
    const wait = sweepHasEnded(sweep) ? ENDED_MILLISECONDS : MILLISECONDS_PER_JOB * sweep.children.length;
    next = Date.now() + Math.max(wait, POLL_MILLISECONDS) - 100;
    show(sweep);
  }

  function show(sweep) {
    document.title = `${sweep.name} – CrossKD`;
    fill(byId("name"), sweep.name);
    draw.summary([sweep.status, sweep.jobs, ago(sweep.created_at)], () => summary(sweep));
    draw.actions(sweep.jobs, () => sweepActions(sweep, me, done, failed));
    draw.answer([sweep.answer, sweep.partial], () => answer(sweep));
    draw.arms([sweep.results, sweep.teacher], () => armTable(sweep));
    draw.points(sweep.results.map((arm) => arm.points), () => pointTable(sweep));
    draw.sizes(sweep.results, () => costTable(sweep));
    draw.classes(sweep.results, () => classTable(sweep, byClass(sweep)));
    draw.failed(sweep.children.map((child) => [child.status, child.failure, child.job]), () => failedJobs(sweep));
    draw.children(sweep.children, () => childTable(sweep));
    draw.spec(sweep.spec, () => h("details", {}, h("summary", {}, "Specification, as it was posted"),
      h("pre", { tabindex: 0, "aria-label": "Specification" }, JSON.stringify(sweep.spec, null, 2))));
    charts.differences.draw(differenceRows(sweep)).catch(failed);
    charts.ap.draw(apRows(sweep)).catch(failed);
    charts.classes.draw(classRows(sweep)).catch(failed);
  }

  const live = repeat(look, POLL_MILLISECONDS);

  function done(sweep) {
    fill(byId("problem"));
    if (sweep) show(sweep);
    next = 0;
    live.now();
  }

  function failed(error) {
    showError(byId("problem"), error);
  }
});

function summary(sweep) {
  const seeds = sweep.seeds.length;
  return [
    h("div", { class: "row tight" }, sweepState(sweep.status), jobsByState(sweep.jobs), labels(sweep)),
    h("p", { class: "soft" },
      `${count(sweep.arms.length)} arms, ${seeds} seed${seeds === 1 ? "" : "s"} each; posted by ${sweep.owner} `,
      h("time", { datetime: sweep.created_at, title: sweep.created_at }, ago(sweep.created_at)),
      ". ", h("a", { href: `/sweeps/${sweep.id}/report`, type: "text/html" }, "Report (HTML)"),
      " · ", h("a", { href: `/sweeps/${sweep.id}` }, "JSON"),
      " · ", h("a", { href: `/web/new?like_sweep=${sweep.id}` }, "Once more, with changes")),
  ];
}

/** The verdicts first; what limits them comes behind, as the service orders them. */
function answer(sweep) {
  const none = "Nothing can be said yet: the first verdict comes when an arm and the baseline have ended with the same seed.";
  const lines = sweep.answer.length ? sweep.answer : [none];
  return [
    h("h2", {}, sweep.partial ? "Verdict so far" : "Verdict"),
    h("div", { class: "verdict", role: "status" }, lines.map((line) => h("p", {}, line))),
  ];
}
