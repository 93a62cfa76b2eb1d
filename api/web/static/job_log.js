// The log of a job: its last lines and those that come, at the end of which the reader stays if they were there.

import { byId, fill, h } from "./dom.js";
import { get } from "./api.js";
import { count } from "./format.js";
import { slowly } from "./live.js";

const TAIL = 200;
const MOST_LINES = 2000;  // on the page
const REDRAW_MILLISECONDS = 300;

/** @returns {{load: () => Promise<void>, add: (event) => void, file: (artifacts) => void}} */
export function jobLog(job) {
  const place = byId("log-lines"), filter = byId("log-filter");
  let last = 0, coming = [], dropped = 0;
  let early = [];  // events that came before the first lines; null since then

  const fits = (line) => line.textContent.toLowerCase().includes(filter.value.toLowerCase());

  const draw = slowly(() => {
    const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 8;
    const made = coming.map(lineOf);
    coming = [];
    for (const line of made) line.hidden = !fits(line);
    place.append(...made);
    while (place.childElementCount > MOST_LINES) place.firstElementChild.remove();
    if (atEnd) place.scrollTop = place.scrollHeight;
    tell();
  }, REDRAW_MILLISECONDS);

  function tell() {
    const all = [...place.children];
    const shown = all.filter((line) => !line.hidden).length;
    const older = (Number(all[0]?.dataset.number) || 1) - 1;
    fill(byId("log-told"), all.length === 0 ? "There is no line yet." : [
      filter.value ? `${count(shown)} of the last ${count(all.length)} lines` : `The last ${count(all.length)} of ${count(last)} lines`,
      older > 0 && filter.value && ", without older ones",
      dropped > 0 && `; ${count(dropped)} came too fast to be kept`]);
  }

  function take(lines) {
    const fresh = lines.filter((line) => line.number > last);
    if (fresh.length === 0) return;
    last = fresh.at(-1).number;
    coming.push(...fresh);
    if (coming.length > MOST_LINES) coming = coming.slice(-MOST_LINES);
    draw();
  }

  filter.oninput = () => {
    for (const line of place.children) line.hidden = !fits(line);
    tell();
  };

  return {
    async load() {
      const page = await get(`/jobs/${job}/logs?tail=${TAIL}`, { headers: { accept: "application/json" } });
      take(page.items);
      if (last === 0) tell();
      const waited = early;
      early = null;
      waited.forEach(this.add);
    },
    add(event) {
      if (early) return void early.push(event);
      dropped += event.dropped;
      take(event.lines);
    },
    file(artifacts) {
      const file = artifacts.find((one) => one.kind === "log");
      byId("log-file").hidden = !file;
      if (file) byId("log-file").href = file.url;
    },
  };
}

function lineOf(line) {
  const grave = line.level !== "info" && line.level !== "debug";
  return h("div", { class: `line ${line.level}`, "data-number": line.number },
    h("span", { class: "when" }, new Date(line.at).toLocaleTimeString("en-GB"), " "),
    grave && `${line.level.toUpperCase()} `, line.text);
}
