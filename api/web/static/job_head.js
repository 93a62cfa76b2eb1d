// The top of a job's page: what it is, how it stands, what one may do with it and take from it.

import { byId, fill, h, showError } from "./dom.js";
import { get } from "./api.js";
import { ago, ap, bytes, count, difference, duration, significant, time } from "./format.js";
import { actions, hasEnded, labels, progress, state } from "./job_parts.js";
import { save } from "./page.js";
import { redrawn } from "./redraw.js";

const BEST_WEIGHTS = "best.safetensors";  // what `…/weights` sends

/**
 * The head of the page. `acted(answer, verb)` hears of an action that worked.
 * @returns {{show: (job, artifacts) => void}}
 */
export function jobHead(me, acted) {
  const parts = Object.fromEntries(["title", "notes", "figures", "facts", "actions", "links"].map((name) =>
    [name, h("div", { class: { title: "title", figures: "figures", links: "row tight" }[name] })]));
  const row = h("div", { class: "row tight" }, parts.actions, parts.links);
  fill(byId("head"), parts.title, parts.notes, parts.figures, row, parts.facts);

  const drawn = Object.fromEntries(Object.entries(parts).map(([name, place]) => [name, redrawn(place)]));
  const failed = (error) => showError(byId("problem"), error);

  function show(job, artifacts) {
    document.title = `${job.name} – CrossKD`;
    drawn.title([job.name, job.status], () => [h("h1", {}, job.name), state(job.status)]);
    drawn.notes(notes(job), () => notes(job).map((note) => h("p", { class: "notice" }, note)));
    drawn.figures([job.progress, job.best_ap, job.teacher_ap, job.status], () => figures(job));
    const weights = artifacts.find((one) => one.kind === "weights" && one.name === BEST_WEIGHTS);
    const known = facts(job, weights);
    drawn.facts(known.map(([, , value]) => value), () =>
      h("dl", { class: "facts" }, known.map(([name, shown]) =>
        h("div", {}, h("dt", {}, name), h("dd", {}, shown)))));
    drawn.actions([job.status, job.name], () => actions(job, me, acted, failed));
    drawn.links([job.started_at, weights], () => links(job, weights, failed));
  }

  return { show };
}

function notes(job) {
  return [
    job.waiting && `Waiting: ${job.waiting}`,
    !hasEnded(job) && job.cancel_requested_at && "Its cancellation is asked for.",
    !hasEnded(job) && job.stop_requested_at && "Its early end is asked for.",
    job.status === "running" && job.pause_requested_at && "Its pause is asked for.",
    job.progress?.waiting_for && !hasEnded(job) && `Files wait for ${job.progress.waiting_for}.`,
  ].filter(Boolean);
}

function figures(job) {
  const found = job.progress;
  const figure = (name, value, under) =>
    h("div", {}, h("span", { class: "soft" }, name), h("strong", {}, value), under && h("span", { class: "soft" }, under));
  const compared = job.teacher_ap >= 0 && job.best_ap >= 0 && job.teacher_ap !== null && job.best_ap !== null;
  return [
    (job.best_ap !== null || job.teacher_ap !== null) && figure("Best COCO AP", ap(job.best_ap)),
    job.teacher_ap !== null && figure("Teacher's AP", ap(job.teacher_ap),
      compared && `student ${difference(job.best_ap - job.teacher_ap)}`),
    found && found.total_steps > 0 && figure("Step", count(found.step), `of ${count(found.total_steps)}`),
    found && found.loss !== null && figure("Loss", significant(found.loss)),
    found && !hasEnded(job) && found.steps_per_second !== null
      && figure("Steps per second", significant(found.steps_per_second, 3)),
    found && !hasEnded(job) && h("div", {}, h("span", { class: "soft" }, "Progress"), progress(job)),
  ];
}

/** Triples of a name, what is shown, and what it depends on. */
function facts(job, weights) {
  const moment = (at) => h("time", { datetime: at, title: at }, `${time(at)} (${ago(at)})`);
  const minute = Math.floor(Date.now() / 60_000);  // "… ago" is another each minute
  const link = (id) => h("a", { href: `/web/jobs/${id}` }, id);
  const took = job.started_at && job.finished_at
    ? duration((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000) : null;
  return [
    ["Kind", job.kind, job.kind],
    ["Owner", job.owner, job.owner],
    Object.keys(job.labels).length > 0 && ["Labels", labels(job), job.labels],
    ["Id", h("code", {}, job.id), job.id],
    ["Submitted", moment(job.created_at), [job.created_at, minute]],
    job.started_at && ["Started", moment(job.started_at), [job.started_at, minute]],
    job.finished_at && ["Ended", [moment(job.finished_at), took && `, after ${took}`], [job.finished_at, minute]],
    job.queue_position !== null && ["Place in the queue", String(job.queue_position), job.queue_position],
    job.stopped_early && ["Stopped early", "yes: the history says at which step and why", true],
    job.retried_from && ["Retry of", link(job.retried_from), job.retried_from],
    ...job.depends_on.map((other) =>
      [`Needs (${other.role})`, [link(other.job), " ", other.status ? state(other.status) : "deleted"], other]),
    weights && ["Weights", [bytes(weights.size), ", SHA-256 ", h("code", { class: "digest" }, weights.sha256)], weights],
  ].filter(Boolean);
}

function links(job, weights, failed) {
  const trains = ["train", "distill"].includes(job.kind);
  const card = async () => {
    try {
      const answer = await get(`/jobs/${job.id}/report`, { raw: true, headers: { accept: "text/markdown" } });
      await save(answer, "README.md");
    } catch (error) {
      failed(error);
    }
  };
  return [
    weights && h("a", { class: "button primary", href: `/jobs/${job.id}/weights`, download: true }, "Download weights"),
    trains && job.started_at && h("a", { class: "button", href: `/jobs/${job.id}/report` }, "Report"),
    trains && job.started_at && h("button", { type: "button", onclick: card }, "Model card"),
    h("a", { class: "button", href: `/web/new?like=${job.id}` }, "New job like this"),
  ];
}
