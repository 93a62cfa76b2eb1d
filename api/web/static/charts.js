// Charts: drawings that the service makes once (`/web/charts/NAME`), with rows that the pages give them.

import { h } from "./dom.js";
import { get } from "./api.js";

const PHONE = matchMedia("(max-width: 40rem)");

let loading = null;

function vega() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "/web/vega.js" });
    script.onload = () => resolve(window.vegaEmbed);
    script.onerror = () => {
      loading = null;
      reject(new Error("the charts' script could not be loaded"));
    };
    document.head.append(script);
  });
  return loading;
}

const drawings = new Map();
function drawing(name) {
  if (!drawings.has(name)) {
    const asked = get(`/web/charts/${name}`);
    asked.catch(() => drawings.delete(name));  // the next chart asks again
    drawings.set(name, asked);
  }
  return drawings.get(name);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent",
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
    // Beside the lines it would leave a phone no room for them.
    legend: { labelColor: ink, titleColor: ink, ...(PHONE.matches && { orient: "bottom", columns: 1 }) },
    title: { color: ink },
    text: { color: ink },
    view: { stroke: line },
  };
}

/**
 * How high a chart is that has a row of `step` pixels for each class or arm; null for one that is as high as it says.
 * Vega-Lite knows it too, but warns wherever the width is that of the place.
 */
function heightOf(spec, rows) {
  const step = spec.height?.step;
  if (!step) return null;
  const field = [spec, ...(spec.layer ?? [])].map((part) => part.encoding?.y?.field).find(Boolean);
  const values = Object.values(rows).flat().map((row) => row[field]).filter((value) => value !== undefined);
  return step * Math.max(1, new Set(values).size);
}

/**
 * Draw the chart NAME in `place`, with `datasets`: rows by dataset, as the chart's Python function describes them.
 * @returns {Promise<{update: (datasets) => Promise<void>, remove: () => void}>}
 */
export async function chart(place, name, datasets, label) {
  const [embed, spec] = await Promise.all([vega(), drawing(name)]);
  let rows = datasets, view = null;
  place.classList.add("chart");
  place.classList.toggle("rows", Boolean(spec.height?.step));
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", label);

  async function draw() {
    view?.finalize();
    const config = mix(spec.config ?? {}, colours());
    const height = heightOf(spec, rows) ?? spec.height;
    const made = await embed(place, { ...spec, height, config, datasets: { ...spec.datasets, ...rows } }, {
      // Only errors: a chart without a row of one of its data sets is none, though Vega warns of it.
      ast: true, renderer: "canvas", actions: false, logLevel: 1, defaultStyle: false, tooltip: { disableDefaultStyle: true },
    });
    view = made.view;
  }

  const redraw = () => draw();
  const system = matchMedia("(prefers-color-scheme: dark)");
  document.addEventListener("themechange", redraw);
  system.addEventListener("change", redraw);
  await draw();
  // Vega itself takes another width only when the window does, not when a neighbour comes or goes.
  let width = place.clientWidth;
  const sizes = new ResizeObserver(() => {
    if (!place.clientWidth || place.clientWidth === width) return;
    width = place.clientWidth;
    view.width(view.container().clientWidth).resize().runAsync();
  });
  sizes.observe(place);
  return {
    async update(datasets) {
      rows = { ...rows, ...datasets };
      for (const [dataset, values] of Object.entries(datasets)) view.data(dataset, values);
      const height = heightOf(spec, rows);
      if (height !== null) view.height(height);
      await view.runAsync();
    },
    remove() {
      sizes.disconnect();
      document.removeEventListener("themechange", redraw);
      system.removeEventListener("change", redraw);
      view?.finalize();
    },
  };
}

function mix(base, over) {
  const mixed = { ...base };
  for (const [key, value] of Object.entries(over))
    mixed[key] = typeof value === "object" && typeof base[key] === "object" ? { ...base[key], ...value } : value;
  return mixed;
}
