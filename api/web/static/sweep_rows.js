// The rows of a sweep's charts, as the drawings in report/sweep_charts.py want them.

const MOST_CLASSES = 40;  // of a chart; the table has all
const HUNDREDTHS = 100;  // AP points in an AP of 1

const inPoints = (value) => (value === null ? null : HUNDREDTHS * value);

export const differenceRows = (sweep) => ({
  differences: sweep.results.filter((arm) => arm.difference && arm.verdict).map(({ arm, difference, verdict }) => ({
    arm,
    difference: inPoints(difference.mean),
    low: inPoints(difference.low),
    high: inPoints(difference.high),
    pairs: difference.pairs,
    verdict: verdict.outcome,
  })),
});

export const apRows = (sweep) => ({
  arms: sweep.results.filter((arm) => arm.ap).map(({ arm, ap }) => ({
    arm, AP: ap.mean, low: ap.mean - (ap.standard_error ?? 0), high: ap.mean + (ap.standard_error ?? 0), jobs: ap.n,
  })),
  jobs: sweep.children
    .filter((child) => child.arm !== null && child.status === "succeeded" && child.best_ap !== null && child.best_ap >= 0)
    .map((child) => ({ arm: child.arm, AP: child.best_ap, seed: child.seed })),
  teacher: sweep.teacher?.ap == null ? [] : [{ AP: sweep.teacher.ap }],
});

/** Each class with its mean AP by arm, in the arms' order; the greatest loss to the baseline first. */
export function byClass(sweep) {
  const names = [...new Set(sweep.results.flatMap((arm) => Object.keys(arm.by_class)))];
  const baseline = sweep.results.findIndex((arm) => arm.baseline);
  const rows = names.map((name) => {
    const values = sweep.results.map((arm) => (Object.hasOwn(arm.by_class, name) ? arm.by_class[name].mean : null));
    const losses = values.filter((value) => value !== null && values[baseline] !== null)
      .map((value) => value - values[baseline]);
    return { name, values, worst: Math.min(0, ...losses) };
  });
  return rows.sort((a, b) => a.worst - b.worst || (a.name < b.name ? -1 : 1));
}

export const classRows = (sweep) => ({
  classes: byClass(sweep).slice(0, MOST_CLASSES).flatMap(({ name, values }) =>
    values.map((AP, number) => ({ class: name, arm: sweep.results[number].arm, AP })).filter((row) => row.AP !== null)),
});
