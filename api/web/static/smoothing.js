// Smoothed curves: an exponential mean, beside the values that it is of.

/**
 * Rows {value, …} with `smooth`: the mean in which what was before weighs `weight` (0..1; 0: the value itself), corrected
 * for its beginning as Adam's are. A row whose value is not finite has none.
 */
export function smoothed(rows, weight) {
  let mean = 0, seen = 0;
  return rows.map((row) => {
    if (!Number.isFinite(row.value)) return row;
    mean = weight * mean + (1 - weight) * row.value;
    seen = weight * seen + (1 - weight);
    return { ...row, smooth: mean / seen };
  });
}
