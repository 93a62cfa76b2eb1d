// Numbers and times as people read them. Absent values are an en dash.

const NONE = "–";

export const ap = (value) => (value === null || value === undefined || value < 0 ? NONE : value.toFixed(3));
export const difference = (value) =>
  value === null || value === undefined ? NONE : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
export const count = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en"));
export const percent = (share) => (share === null || share === undefined ? NONE : `${Math.round(100 * share)} %`);

export function significant(value, digits = 4) {
  return typeof value === "number" ? String(Number(value.toPrecision(digits))) : value ?? NONE;
}

/** Seconds as 1:02:03, 2:03 or 12 s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export function bytes(size) {
  if (size === null || size === undefined) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

/** How long ago an ISO time was. */
export function ago(time) {
  if (!time) return NONE;
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (seconds < 60) return "just now";
  for (const [name, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    const n = Math.floor(seconds / length);
    if (n >= 1) return `${n} ${name}${n > 1 ? "s" : ""} ago`;
  }
  return NONE;
}

export const time = (iso) => (iso ? new Date(iso).toLocaleString("en-GB") : NONE);
