// Drawing again only what has changed: focus stays where it was, and so does a table that was scrolled sideways.

import { fill, h } from "./dom.js";
import { chart } from "./charts.js";

/** What tells an element from its neighbours, also after it was made anew. */
const nameOf = (element) =>
  element.getAttribute("aria-label") || element.id || element.getAttribute("href") || element.textContent;

const named = (place, selector, name) =>
  [...place.querySelectorAll(selector)].find((element) => nameOf(element) === name);

/**
 * A function (value, make): fills `place` with what `make()` gives, if `value` differs from the one before. Values are
 * compared as JSON.
 */
export function redrawn(place) {
  let shown = null;
  return (value, make) => {
    const told = JSON.stringify(value);
    if (told === shown) return;
    shown = told;
    const focused = place.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    const opened = [...place.querySelectorAll("details[open] > summary")].map(nameOf);
    const scrolled = [...place.querySelectorAll(".wide")].map((box) => box.scrollLeft);
    fill(place, make());
    for (const name of opened) named(place, "summary", name)?.parentElement.setAttribute("open", "");
    [...place.querySelectorAll(".wide")].forEach((box, number) => { box.scrollLeft = scrolled[number] ?? 0; });
    if (focused) named(place, "a, button, input, select, summary, [tabindex]", focused)?.focus();
  };
}

/**
 * A chart that comes with its first rows and goes on with each change. `rows` of `draw`: by dataset.
 * @returns {{draw: (rows: object) => Promise<void>, remove: () => void}}
 */
export function liveChart(place, name, title, explained) {
  let shown = null, drawing = null, removed = false;

  async function begin(rows) {
    const canvas = h("div");
    fill(place, h("h2", {}, title), explained && h("p", { class: "soft" }, explained), canvas);
    const drawn = await chart(canvas, name, rows, title);
    if (removed) drawn.remove();
    return drawn;
  }

  return {
    async draw(rows) {
      const told = JSON.stringify(rows);
      if (removed || told === shown || (!drawing && !Object.values(rows).some((dataset) => dataset.length))) return;
      shown = told;
      const begun = drawing;
      drawing ??= begin(rows);
      try {
        const drawn = await drawing;
        if (begun && !removed) await drawn.update(rows);
      } catch (error) {
        drawing = shown = null;  // the next look begins anew
        fill(place);
        throw error;
      }
    },
    remove() {
      removed = true;
      drawing?.then((drawn) => drawn.remove(), () => {});
      fill(place);
    },
  };
}
