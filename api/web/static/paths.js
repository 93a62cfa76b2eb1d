// Parts of plain JSON values by their path, and paths as JSON pointers (RFC 6901).

export const isSection = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

export const pointerOf = (path) =>
  path.map((part) => `/${String(part).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");

/** What `root` has at `path`; undefined: nothing. */
export function valueAt(root, path) {
  let found = root;
  for (const part of path) {
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, part)) return undefined;
    found = found[part];
  }
  return found;
}

/** A copy of the section `root` with `value` at `path`; undefined takes it away, and the sections that this empties. */
export function withValue(root, [name, ...below], value) {
  const copy = isSection(root) ? { ...root } : {};
  const inner = below.length ? withValue(copy[name], below, value) : value;
  const emptied = value === undefined && isSection(inner) && Object.keys(inner).length === 0;
  if (inner === undefined || emptied) delete copy[name];
  else copy[name] = inner;
  return copy;
}
