// What may be done to a whole sweep. Each is offered only where a job of it allows it.

import { h } from "./dom.js";
import { send } from "./api.js";
import { sure } from "./page.js";

const some = (...states) => (jobs) => states.some((state) => jobs[state]);
const unfinished = some("waiting", "queued", "running", "paused");

const ACTIONS = [
  { verb: "pause", title: "Pause", when: some("queued", "running") },
  { verb: "resume", title: "Resume", when: some("paused") },
  { verb: "retry", title: "Retry what failed", when: some("failed", "cancelled") },
  { verb: "cancel", title: "Cancel", when: unfinished, danger: true, ask: "Cancel every job that has not ended?" },
];

/** Buttons for what the jobs' states allow. `done(sweep)` after one has worked, `failed(error)` else. */
export function sweepActions(sweep, me, done, failed) {
  if (!me.scopes.includes("write")) return null;

  const button = (title, danger, ask, act) => h("button", {
    type: "button",
    class: danger && "danger",
    onclick: async (event) => {
      if (ask && !sure(ask)) return;
      event.target.disabled = true;
      try {
        await act();
      } catch (error) {
        failed(error);
      }
      event.target.disabled = false;
    },
  }, title);

  return h("div", { class: "row tight" },
    ACTIONS.filter((action) => action.when(sweep.jobs)).map(({ title, danger, ask, verb }) =>
      button(title, danger, ask, async () => done(await send("POST", `/sweeps/${sweep.id}/${verb}`)))),
    !unfinished(sweep.jobs) && button("Delete", true,
      `Delete the sweep ${sweep.name} with all of its jobs, their weights and their logs? This cannot be undone.`,
      async () => {
        await send("DELETE", `/sweeps/${sweep.id}`);
        location.assign("/web/sweeps");
      }));
}
