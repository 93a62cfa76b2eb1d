// How a job is shown wherever it is shown: its state, its progress, its labels, and what one may do with it.

import { h } from "./dom.js";
import { duration, percent } from "./format.js";
import { send } from "./api.js";
import { sure } from "./page.js";

const ENDED = new Set(["succeeded", "failed", "cancelled"]);
export const hasEnded = (job) => ENDED.has(job.status);

export const state = (status) => h("span", { class: `state ${status}` }, status);

export const labels = (job) =>
  Object.entries(job.labels).map(([key, value]) => [h("span", { class: "label" }, `${key}=${value}`), " "]);

/** Steps done of all, as a bar with its phase; empty while nothing is reported. */
export function progress(job) {
  const found = job.progress;
  if (!found || hasEnded(job)) return null;
  const share = found.total_steps ? found.step / found.total_steps : null;
  const bar = share === null ? null
    : h("progress", { value: share, max: 1, "aria-label": `${found.step} of ${found.total_steps} steps` });
  const rest = found.eta_seconds === null || found.eta_seconds === undefined ? null : `${duration(found.eta_seconds)} left`;
  const words = found.phase === "training" ? share !== null && percent(share) : found.phase.replaceAll("_", " ");
  return h("span", { class: "row tight" }, bar, h("span", { class: "soft" }, [words, rest].filter(Boolean).join(", ")));
}

const ACTIONS = [
  { verb: "pause", title: "Pause", when: (job) => ["queued", "running"].includes(job.status) },
  { verb: "resume", title: "Resume", when: (job) => job.status === "paused" },
  { verb: "stop", title: "Stop here", when: (job) => job.status === "running" && ["train", "distill"].includes(job.kind),
    ask: "End the training now, as succeeded with what it has?" },
  { verb: "cancel", title: "Cancel", when: (job) => !hasEnded(job), ask: "Cancel this job?" },
  { verb: "retry", title: "Retry", when: (job) => ["failed", "cancelled"].includes(job.status) },
];

/** Buttons for what the job's state allows. `done(answer, verb)` after one has worked, `failed(error)` else. */
export function actions(job, me, done, failed) {
  if (!me.scopes.includes("write")) return null;
  return h("span", { class: "row tight" },
    ACTIONS.filter((action) => action.when(job)).map((action) =>
      h("button", {
        type: "button",
        "aria-label": `${action.title}: ${job.name}`,
        onclick: async (event) => {
          if (action.ask && !sure(action.ask)) return;
          event.target.disabled = true;
          try {
            done(await send("POST", `/jobs/${job.id}/${action.verb}`), action.verb);
          } catch (error) {
            event.target.disabled = false;
            failed(error);
          }
        },
      }, action.title)));
}
