// How sweeps are shown wherever they are shown: their state, their verdicts, and figures of several jobs.

import { h } from "./dom.js";
import { ap } from "./format.js";

const ENDED = new Set(["finished", "failed", "cancelled"]);
export const sweepHasEnded = (sweep) => ENDED.has(sweep.status);

const ORDER = ["running", "waiting", "queued", "paused", "succeeded", "failed", "cancelled", "deleted"];

export const sweepState = (status) =>
  h("span", { class: `state ${{ finished: "succeeded" }[status] ?? status}` }, status);

/** How many jobs are in which state, those that are on their way first. */
export const jobsByState = (jobs) => h("span", { class: "row tight" },
  ORDER.filter((status) => jobs[status]).map((status) =>
    h("span", { class: `state ${status}` }, `${jobs[status]} ${status}`)));

const OUTCOMES = { "helps": "succeeded", "hurts": "failed", "not shown": "" };
export const outcome = (said) => h("span", { class: `state ${OUTCOMES[said] ?? ""}` }, said);

/** Mean and standard error of an AP; one job alone has no error. */
export function spread(found, digits = 3) {
  if (!found) return "–";
  const mean = digits === 3 ? ap(found.mean) : found.mean.toFixed(digits);
  return found.standard_error === null ? mean : `${mean} ± ${found.standard_error.toFixed(digits)}`;
}

/** A difference in AP (0..1), in points, that is hundredths; what would be 0.00 and is not 0 has one digit. */
export function points(value) {
  if (value === null || value === undefined) return "–";
  const shown = Math.abs(100 * value);
  const digits = shown.toFixed(2);
  return (value < 0 ? "−" : "+") + (value !== 0 && Number(digits) === 0 ? Number(shown.toPrecision(1)) : digits);
}

export const interval = (low, high) =>
  (low === null || low === undefined ? "–" : `${points(low)} to ${points(high)}`);

export const pointOfGrid = (point) =>
  Object.entries(point).map(([knob, value]) => `${knob} = ${JSON.stringify(value)}`).join(", ");
