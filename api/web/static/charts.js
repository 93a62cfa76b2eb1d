// Charts: drawings that the service makes once (`/web/charts/NAME`), with rows that the pages give them.

import { h } from "./dom.js";
import { get } from "./api.js";

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
  if (!drawings.has(name)) drawings.set(name, get(`/web/charts/${name}`));
  return drawings.get(name);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent",
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: ink, titleColor: ink },
    title: { color: ink },
    text: { color: ink },
    view: { stroke: line },
  };
}

/**
 * Draw the chart NAME in `place`, with `datasets`: rows by dataset, as the chart's Python function describes them.
 * @returns {Promise<{update: (datasets) => Promise<void>, remove: () => void}>}
 */
export async function chart(place, name, datasets, label) {
  const [embed, spec] = await Promise.all([vega(), drawing(name)]);
  let rows = datasets, view = null;
  place.classList.add("chart");
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", label);

  async function draw() {
    view?.finalize();
    const config = mix(spec.config ?? {}, colours());
    const made = await embed(place, { ...spec, config, datasets: { ...spec.datasets, ...rows } }, {
      ast: true, renderer: "canvas", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
    });
    view = made.view;
  }

  const redraw = () => draw();
  const system = matchMedia("(prefers-color-scheme: dark)");
  document.addEventListener("themechange", redraw);
  system.addEventListener("change", redraw);
  await draw();
  return {
    async update(datasets) {
      rows = { ...rows, ...datasets };
      for (const [dataset, values] of Object.entries(datasets)) view.data(dataset, values);
      await view.runAsync();
    },
    remove() {
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
