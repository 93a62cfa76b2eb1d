// The workers that were heard of: what each runs on, what it does, and when it last said so.

import { byId, h, table } from "./dom.js";
import { get } from "./api.js";
import { ago, bytes, percent, time } from "./format.js";
import { repeat } from "./live.js";
import { start } from "./page.js";
import { redrawn } from "./redraw.js";

const POLL_MILLISECONDS = 3000;
const SILENT_MILLISECONDS = 6.5 * 3_600_000;  // an idle worker says every six hours that it is there

start(async () => {
  const draw = redrawn(byId("workers"));

  async function show() {
    const { items } = await get("/workers");
    draw(items.map((worker) => [worker, ago(worker.last_seen)]), () => (items.length ? workerTable(items) : nobody()));
  }

  repeat(show, POLL_MILLISECONDS);
});

const workerTable = (workers) => table([
  { title: "Name", cell: (worker) => h("span", { class: "name" }, worker.name) },
  { title: "State", cell: state },
  { title: "Runs", cell: ({ attempt }) => attempt && [
    h("a", { href: `/web/jobs/${attempt.job}`, class: "name" }, attempt.job_name),
    attempt.number > 1 && h("span", { class: "soft" }, ` attempt ${attempt.number}`)] },
  { title: "Devices", cell: devices },
  { title: "Versions", cell: versions },
  { title: "Last heard of", cell: (worker) => when(worker.last_seen) },
  { title: "Known since", cell: (worker) => when(worker.first_seen) },
], workers, "Workers, the last heard of first");

function state(worker) {
  if (worker.attempt) return h("span", { class: "state running" }, "at work");
  const silent = Date.now() - Date.parse(worker.last_seen) > SILENT_MILLISECONDS;
  return silent ? h("span", { class: "state waiting" }, "silent") : h("span", { class: "state" }, "idle");
}

const when = (iso) => h("time", { datetime: iso, title: time(iso) }, ago(iso));

/** The set that it serves, and what the driver tells of each device. */
function devices(worker) {
  const set = worker.device === "cpu" ? "CPU" : worker.device ? `GPU ${worker.device}` : "not told";
  return [h("div", {}, set), worker.devices.map((one) => h("div", { class: "soft" },
    [one.name, memory(one), one.utilisation !== null && `${percent(one.utilisation)} busy`].filter(Boolean).join(", ")))];
}

function memory(device) {
  if (device.memory_bytes === null) return null;
  const used = device.memory_used_bytes === null ? "" : `${bytes(device.memory_used_bytes)} of `;
  return `${used}${bytes(device.memory_bytes)}`;
}

function versions(worker) {
  const told = Object.entries(worker.versions);
  if (!told.length) return null;
  const main = ["python", "torch"].filter((name) => worker.versions[name]).map((name) => `${name} ${worker.versions[name]}`);
  return h("details", {}, h("summary", { "aria-label": `Versions of ${worker.name} on ${worker.device}` }, main.join(", ") || `${told.length} packages`),
    told.map(([name, version]) => h("div", { class: "soft" }, `${name} ${version}`)));
}

const nobody = () => h("div", { class: "empty" },
  h("p", {}, "No worker has been heard of within the last seven days: jobs wait until one comes."),
  h("p", {}, "On one machine ", h("code", {}, "crosskd up"), " starts the service with a worker. Elsewhere, with the addresses and the token that the API has:"),
  h("p", {}, h("code", {}, "CROSSKD_API_URL=… CROSSKD_BROKER_URL=… CROSSKD_WORKER_TOKEN=… python -m worker")));
