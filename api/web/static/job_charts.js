// The charts of a training: drawn when there is something to draw, again at most twice a second.

import { byId, fill, h, showError } from "./dom.js";
import { count, significant } from "./format.js";
import { slowly } from "./live.js";
import { liveChart } from "./redraw.js";

const REDRAW_MILLISECONDS = 400;
const MOST_TOLD = 5;  // points that are not finite, in words

const ONE_SERIES = [
  { name: "learning_rate", key: "lr", title: "Learning rate" },
  { name: "throughput", key: "images_per_second", title: "Throughput" },
  { name: "gradient_norm", key: "grad_norm", title: "Norm of the gradient" },
];

/**
 * Charts of `series` (series.js) and of the evaluations that `evaluations()` gives.
 * @returns {{redraw: () => void}} `redraw` soon draws what there is by then
 */
export function jobCharts(series, evaluations) {
  const smoothing = byId("smoothing");
  const chart = (name, title, explained) => {
    const place = h("div", { class: "graph" });
    byId("charts").append(place);
    return liveChart(place, name, title, explained);
  };
  const losses = chart("losses", "Losses");
  const ap = chart("ap", "COCO AP", "Dashed: the teacher's. Large points: the best so far.");
  const singles = ONE_SERIES.map((one) => ({ key: one.key, chart: chart(one.name, one.title) }));

  /** What there is to draw, by key: losses, and those that have a chart of their own. */
  const rowsOf = (keys, weight) => new Map(keys.map((key) => [key, series.rows(key, weight)]));

  async function draw() {
    const weight = Number(smoothing.value);
    const made = await Promise.allSettled([
      losses.draw(lossRows([...rowsOf(series.losses, weight)])),
      ap.draw(apRows(evaluations())),
      ...singles.map((one) => one.chart.draw(seriesRows(series.rows(one.key, weight)))),
    ]);
    const failed = made.find((one) => one.status === "rejected");
    fill(byId("charts-problem"));
    if (!failed) return;
    showError(byId("charts-problem"), failed.reason);
    throw failed.reason;
  }

  const redrawCharts = slowly(draw, REDRAW_MILLISECONDS);
  const tellAll = slowly(() => {
    tellPoints([...rowsOf(series.losses, 0)][0]);
    tellBroken([...rowsOf([...series.losses, ...ONE_SERIES.map((one) => one.key)], 0)]);
  }, REDRAW_MILLISECONDS);
  const redraw = () => {
    tellAll();
    redrawCharts();
  };
  smoothing.oninput = () => {
    fill(byId("smoothing-told"), smoothing.value);
    redrawCharts();
  };
  return { redraw };
}

function tellPoints(found) {
  if (!found) return fill(byId("points"), "Nothing is reported yet. The charts begin with the first points of the training.");
  const [key, rows] = found;
  const last = rows.at(-1);
  const points = rows.reduce((sum, row) => sum + row.points, 0);
  fill(byId("points"), `${count(points)} points of ${key} up to step ${count(last.step)}, `
    + `the last is ${significant(last.value)}.`);
}

function tellBroken(found) {
  const broken = found.flatMap(([key, rows]) => rows.filter((row) => row.broken.length)
    .map((row) => `${key} ${row.broken.join(", ")} at step ${count(row.step)}`));
  const rest = broken.length - MOST_TOLD;
  fill(byId("broken"), broken.length > 0 &&
    `Not finite (crosses): ${broken.slice(0, MOST_TOLD).join("; ")}${rest > 0 ? `; and ${count(rest)} more` : ""}.`);
}

const drawable = (row) => typeof row.value === "number" && row.least !== null;

const lossRows = (losses) => ({
  losses: losses.flatMap(([term, rows]) => rows.filter(drawable).map((row) =>
    ({ step: row.step, term, loss: row.value, least: row.least, greatest: row.greatest, smooth: row.smooth }))),
  broken: losses.flatMap(([term, rows]) => rows.filter((row) => row.broken.length).map((row) =>
    ({ step: row.step, term, value: row.broken.join(", ") }))),
});

const seriesRows = (rows) => ({
  series: rows.filter(drawable).map((row) =>
    ({ step: row.step, value: row.value, least: row.least, greatest: row.greatest, smooth: row.smooth })),
  broken: rows.filter((row) => row.broken.length).map((row) => ({ step: row.step, value: row.broken.join(", ") })),
});

function apRows(evaluations) {
  const measured = evaluations.filter((one) => one.metrics.AP >= 0);
  return {
    student: measured.filter((one) => one.model === "student").map((one) =>
      ({ step: one.step, AP: one.metrics.AP, epoch: one.epoch, best: one.best })),
    teacher: measured.filter((one) => one.model === "teacher").slice(-1).map((one) => ({ AP: one.metrics.AP })),
  };
}
