// The list of sweeps: a page of it, asked for again while somebody looks.

import { byId, h, table } from "./dom.js";
import { ago } from "./format.js";
import { labels } from "./job_parts.js";
import { start } from "./page.js";
import { pagedList } from "./paged_list.js";
import { redrawn } from "./redraw.js";
import { jobsByState, outcome, sweepState } from "./sweep_parts.js";

const SWEEPS = 25;
const POLL_MILLISECONDS = 3000;

start(() => {
  const redraw = redrawn(byId("sweeps"));
  pagedList({
    path: "/sweeps", here: "/web/sweeps", filters: ["owner", "name"], limit: SWEEPS, milliseconds: POLL_MILLISECONDS,
    draw: (page, filters) =>
      redraw([page, filters], () => (page.items.length ? sweepTable(page.items) : nothing(filters))),
  });
});

const sweepTable = (sweeps) => table([
  { title: "Name", cell: (sweep) => [
    h("a", { href: `/web/sweeps/${sweep.id}`, class: "name" }, sweep.name), h("br"), labels(sweep)] },
  { title: "State", cell: (sweep) => sweepState(sweep.status) },
  { title: "Verdict", cell: verdicts },
  { title: "Arms", cell: (sweep) => sweep.arms.map((arm) =>
    [h("span", { class: "label" }, arm === sweep.baseline ? `${arm} (baseline)` : arm), " "]) },
  { title: "Seeds", number: true, cell: (sweep) => sweep.seeds.length },
  { title: "Jobs", cell: (sweep) => jobsByState(sweep.jobs) },
  { title: "Owner", cell: (sweep) => sweep.owner },
  { title: "Posted", cell: (sweep) =>
    h("time", { datetime: sweep.created_at, title: sweep.created_at }, ago(sweep.created_at)) },
], sweeps, "Sweeps, newest first");

/** Of each arm that can be compared by now, as it stands. */
function verdicts(sweep) {
  const told = Object.entries(sweep.verdicts);
  if (!told.length) return h("span", { class: "soft" }, "none yet");
  return told.map(([arm, said]) => h("div", {}, `${arm} `, outcome(said)));
}

const nothing = (filters) => h("div", { class: "empty" },
  Object.values(filters).some(Boolean) ? h("p", {}, "No sweep fits these filters.") : [
    h("p", {}, "There are no sweeps yet. A sweep trains several variants with the same seeds, and says which one helps."),
    h("p", {}, h("code", {}, "crosskd distill --data DIR"),
      " makes the usual one: a teacher, the student alone, and the student distilled. So does ",
      h("a", { href: "/web/new?sweep" }, "a form"), ".")]);
