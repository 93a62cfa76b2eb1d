// The series of a job: buckets of what was reported before, and behind them the points that have come since.

import { smoothed } from "./smoothing.js";

// Those that are no losses: they have other units (report/chart_rows.py).
const NOT_LOSSES = new Set(
  ["lr", "grad_norm", "steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation",
    "unlabelled_images", "unlabelled_confident",
    "teacher_cache_hits", "teacher_cache_misses", "teacher_cache_damaged", "teacher_cache_mib"]);

const ofPoint = (point) => {
  const finite = typeof point.value === "number";
  return {
    step: point.step, value: point.value, points: 1,
    least: finite ? point.value : null, greatest: finite ? point.value : null,
    broken: finite ? [] : [point.value], attempt: point.attempt,
  };
};

const ofBucket = (bucket) => ({
  step: bucket.last_step, value: bucket.last, points: bucket.points, least: bucket.min, greatest: bucket.max,
  broken: bucket.non_finite, attempt: 0,  // of whichever attempt counts there
});

const joined = (a, b) => ({
  step: b.step, value: b.value, points: a.points + b.points,
  least: a.least === null ? b.least : Math.min(a.least, b.least ?? a.least),
  greatest: a.greatest === null ? b.greatest : Math.max(a.greatest, b.greatest ?? a.greatest),
  broken: [...new Set([...a.broken, ...b.broken])], attempt: b.attempt,
});

export class Series {
  #old = new Map();  // by key: buckets by step, as the service summed them
  #new = new Map();  // by key: points by step, all behind those
  #attempt = 0;  // the newest that is known of
  #outdated = false;  // a newer attempt has reported than those that the buckets are of
  #width = 1;  // steps in a bucket

  /** How many points came since the buckets were fetched. */
  get fresh() {
    return [...this.#new.values()].reduce((sum, rows) => sum + rows.length, 0);
  }

  /** Keys of losses, the whole loss first. */
  get losses() {
    return [...new Set([...this.#old.keys(), ...this.#new.keys()])].filter((key) => !NOT_LOSSES.has(key))
      .sort((a, b) => (b === "loss") - (a === "loss") || a.localeCompare(b));
  }

  /**
   * Take `buckets`, the answer to `GET /jobs/{id}/metrics?buckets=…`, in place of all before. Points that have come
   * while it was on its way stay, unless it has them. `attempt`: the newest, from before it was asked for. Where a
   * newer one has reported since, the answer may lack its points and have those that they replace: it is not taken.
   */
  replace(buckets, attempt) {
    if (attempt < this.#attempt && this.#outdated) return;
    this.#attempt = Math.max(this.#attempt, attempt);
    this.#outdated = false;
    this.#width = buckets.width;
    this.#old = new Map();
    for (const bucket of buckets.items) listOf(this.#old, bucket.key).push(ofBucket(bucket));
    for (const [key, rows] of this.#new) {
      const end = this.#end(key);
      this.#new.set(key, rows.filter((row) => row.step > end && row.attempt === this.#attempt));
    }
  }

  /**
   * Add the points of an event. An attempt reports a key's steps in order, so what is not behind the last one known is
   * known. Of a new attempt they stand in place of what former ones reported from there on.
   * @returns {boolean} whether the buckets must be fetched again, since another attempt goes on
   */
  add({ attempt, points }) {
    if (attempt < this.#attempt) return false;  // its points behind the checkpoint no longer count
    const another = attempt > this.#attempt && this.#attempt > 0;
    this.#outdated ||= another;
    this.#attempt = attempt;
    for (const point of points) {
      if (this.#outdated) this.#cut(point.key, point.step);
      if (point.step > this.#last(point.key)) listOf(this.#new, point.key).push(ofPoint(point));
    }
    return another;
  }

  /** Rows of a key by step, one for each bucket; with `weight` (0..1, 0: none) of what was before, also smoothed. */
  rows(key, weight) {
    const rows = [...(this.#old.get(key) ?? [])];
    for (const point of this.#new.get(key) ?? []) {
      const last = rows.at(-1);
      if (last && this.#place(last) === this.#place(point)) rows[rows.length - 1] = joined(last, point);
      else rows.push(point);
    }
    return smoothed(rows, weight);
  }

  #place = (row) => Math.floor(row.step / this.#width);
  #end = (key) => this.#old.get(key)?.at(-1)?.step ?? -1;
  #last = (key) => this.#new.get(key)?.at(-1)?.step ?? this.#end(key);

  /** Take away what former attempts reported for `step` and later ones. */
  #cut(key, step) {
    for (const rows of [this.#old, this.#new])
      if (rows.has(key)) rows.set(key, rows.get(key).filter((row) => row.step < step || row.attempt === this.#attempt));
  }
}

function listOf(lists, key) {
  if (!lists.has(key)) lists.set(key, []);
  return lists.get(key);
}
