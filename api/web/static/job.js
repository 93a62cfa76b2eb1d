// A job: what it is and how it goes, brought up to date by its events.

import { byId, fill, h, showError } from "./dom.js";
import { get, ProblemError } from "./api.js";
import { jobCharts } from "./job_charts.js";
import { evaluationsOf } from "./job_evaluations.js";
import { imagePanel } from "./image_panel.js";
import { jobHead } from "./job_head.js";
import { jobLog } from "./job_log.js";
import { hasEnded } from "./job_parts.js";
import { artifactsOf, attemptsOf, failureOf, specOf, transitionsOf, warningsOf } from "./job_record.js";
import { follow, repeat, slowly } from "./live.js";
import { idInPath, start } from "./page.js";
import { predictor } from "./predictor.js";
import { redrawn } from "./redraw.js";
import { Series } from "./series.js";

const BUCKETS = 400;  // of each series: about as many as a chart has pixels to tell apart
const MOST_FRESH = 4000;  // points that came one by one, until they are fetched as buckets
const POLL_MILLISECONDS = 10_000;  // for what no event tells: files, places in the queue, requests of others
const BEST_DETECTIONS = "detections.json.gz";  // the file that GET …/images tells of
const HEAD_MILLISECONDS = 400;

// Parts of the page that are drawn anew only if what they show is another: what a reader has selected there stays.
const PARTS = ["failure", "transitions", "attempts", "warnings", "spec", "artifacts", "evaluated", "predictor"];

const id = idInPath("/web/jobs/");

start(async (me) => {
  const look = () => Promise.all(
    [get(`/jobs/${id}`), get(`/jobs/${id}/artifacts`).then((found) => found.items)]);
  let job, artifacts, evaluations = [];
  try {
    [job, artifacts] = await look();
  } catch (error) {
    const absent = error instanceof ProblemError && error.status === 404;
    fill(byId("head"), h("h1", {}, absent ? "No such job" : "Job"), h("a", { href: "/" }, "All jobs"));
    return showError(byId("problem"), error);
  }
  byId("parts").hidden = false;
  const series = new Series();
  const log = jobLog(id);
  const charts = jobCharts(series, () => evaluations);
  const head = jobHead(me, (answer, verb) => {
    fill(byId("problem"));
    if (verb === "retry") location.assign(`/web/jobs/${answer.id}`);
    else refresh.now();
  });
  const images = ["export", "import"].includes(job.kind) ? null : imagePanel(byId("image-panel"), id);
  byId("images").hidden = !images;
  const draw = Object.fromEntries(PARTS.map((name) => [name, redrawn(byId(name))]));

  function show() {
    head.show(job, artifacts);
    draw.failure([job.failure, job.status, job.attempts], () => failureOf(job));
    draw.transitions(job.transitions, () => transitionsOf(job));
    draw.attempts(job.attempts, () => attemptsOf(job));
    draw.warnings(job.warnings, () => warningsOf(job));
    draw.spec(job.spec, () => specOf(job));
    draw.artifacts(artifacts, () => artifactsOf(artifacts));
    log.file(artifacts);
    showImages();
    const graph = artifacts.some((one) => one.kind === "onnx");
    draw.predictor([graph, hasEnded(job)], () => (graph ? predictor(job) : lacksGraph(job)));
  }

  const showImages = () => images?.update(evaluations, artifacts.find((one) => one.name === BEST_DETECTIONS));

  const refresh = repeat(async () => {
    [job, artifacts] = await look();
    show();
    if (hasEnded(job)) refresh.stop();
  }, POLL_MILLISECONDS);
  const showHead = slowly(() => head.show(job, artifacts), HEAD_MILLISECONDS);

  const bringSeries = slowly(async () => {
    const attempt = (await get(`/jobs/${id}`)).attempts.at(-1)?.number ?? 0;
    series.replace(await get(`/jobs/${id}/metrics?buckets=${BUCKETS}`), attempt);
    charts.redraw();
  }, 1000);
  const bringEvaluations = slowly(async () => {
    evaluations = (await get(`/jobs/${id}/evaluations`)).items;
    draw.evaluated(evaluations, () => evaluationsOf(job, evaluations));
    showImages();
    charts.redraw();
  }, 1000);

  show();
  bringSeries();
  bringEvaluations();
  const loaded = log.load();
  if (hasEnded(job)) return loaded;
  follow(id, job.last_event, {
    transition: () => {
      refresh.now();
      bringSeries();  // another attempt begins behind its checkpoint
      bringEvaluations();
    },
    metrics: (event) => {
      job.progress = event.progress ?? job.progress;
      showHead();
      if (series.add(event) || series.fresh > MOST_FRESH) bringSeries();
      charts.redraw();
    },
    evaluation: () => {
      refresh.now();
      bringEvaluations();
    },
    log: (event) => log.add(event),
  });
  return loaded;
});

/** Why there is nothing to look at images with. */
function lacksGraph(job) {
  return h("p", { class: "soft" },
    job.kind === "evaluate" ? "An evaluation has no graph: try images at the job whose weights it evaluates."
    : job.kind === "import" ? "An import has no graph: try images at a job that trains on its data set."
    : !hasEnded(job) ? "Images can be tried when the job has succeeded: then its best student is there as a graph."
    : "The job has no graph (model.onnx) to look at images with; its history and its log say why. Where its detector "
      + "has that form, a job of the kind export makes one from its weights.");
}
