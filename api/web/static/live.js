// What keeps a page up to date: asking again while somebody looks, and a job's events without gap or double.

import { byId, fill } from "./dom.js";
import { get, ProblemError, Unreachable } from "./api.js";

const LONGEST_MILLISECONDS = 30_000;
const UNTOLD_MILLISECONDS = 2500;  // a stream ends now and then, and a job's for ever: the browser comes back in a second

/** Tell at the page's foot that the service does not answer; with null, that it does again. */
export function tellConnection(text) {
  const place = byId("connection");
  place.hidden = text === null;
  if (text !== null) fill(place, text);
}

/**
 * Call `work` now and again `milliseconds` after it is done, while the page is seen; less often while it fails.
 * @returns {{now: () => void, stop: () => void}} `now` asks at once.
 */
export function repeat(work, milliseconds) {
  let timer = null, stopped = false, running = false, wait = milliseconds, again = false;
  async function run() {
    if (stopped || document.hidden) return;
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    running = true;
    try {
      await work();
      wait = milliseconds;
      tellConnection(null);
    } catch (error) {
      wait = Math.min(LONGEST_MILLISECONDS, 2 * wait);
      if (error instanceof Unreachable) tellConnection("The service does not answer. Trying again …");
      else if (error.name !== "AbortError") console.error(error);
    } finally {
      running = false;
    }
    if (!stopped) timer = setTimeout(run, again ? 0 : wait);
    again = false;
  }
  document.addEventListener("visibilitychange", run);
  run();
  return { now: run, stop: () => { stopped = true; clearTimeout(timer); } };
}

const passes = (error) => error instanceof Unreachable || [429, 503].includes(error.status);

/**
 * `work` as something to call often: it is done at once, then at most every `milliseconds`, and once after the last
 * call; again a little later, if the service could not answer it.
 */
export function slowly(work, milliseconds) {
  let asked = false, busy = false;
  async function run() {
    busy = true;
    while (asked) {
      asked = false;
      const began = performance.now();
      let pause = milliseconds;
      try {
        await work();
        pause = Math.max(pause, performance.now() - began);  // what takes long is done less often
      } catch (error) {
        if (passes(error)) [asked, pause] = [true, 2000];
        else console.error(error);
      }
      await new Promise((done) => setTimeout(done, pause));
    }
    busy = false;
  }
  return () => {
    asked = true;
    if (!busy) run();
  };
}

/**
 * Follow a job's events behind number `after`, while the page is seen: a browser has few connections to one service,
 * and a page that nobody looks at must not hold one. `handlers` by kind: transition, metrics, evaluation, log; each
 * gets (data, number). All four must be there: the end is known by the number of the last event. The browser comes
 * back by itself with the last number it has seen; where an answer forbids that (a server that starts, too many
 * streams) it is asked again here. `onend()` when nothing more can come.
 * @returns {() => void} stops following
 */
export function follow(job, after, handlers, onend = () => {}) {
  let source = null, timer = null, lost = null, last = after, stopped = false, wait = 1000;
  const kinds = Object.keys(handlers).map((kind) => `kind=${kind}`).join("&");

  function open() {
    timer = null;
    if (stopped || source || document.hidden) return;
    source = new EventSource(`/jobs/${job}/events?after=${last}&${kinds}`);
    source.onopen = () => {
      wait = 1000;
      clearTimeout(lost);
      tellConnection(null);
    };
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => {
        const number = Number(event.lastEventId);
        if (number <= last) return;
        last = number;
        handle(JSON.parse(event.data), number);
      });
    }
    source.onerror = () => {
      clearTimeout(lost);
      if (source?.readyState === EventSource.CLOSED) comeBack();  // 204, or an answer that is no stream
      else lost = setTimeout(() => tellConnection("The connection is lost. Trying again …"), UNTOLD_MILLISECONDS);
    };
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(timer);
    clearTimeout(lost);
  }

  async function comeBack() {
    close();
    try {
      const found = await get(`/jobs/${job}`);
      tellConnection(null);
      if (found.finished_at && last >= found.last_event) return end();
    } catch (error) {
      if (error instanceof ProblemError && error.status === 404) return end();
      if (error instanceof Unreachable) tellConnection("The service does not answer. Trying again …");
    }
    wait = Math.min(LONGEST_MILLISECONDS, 2 * wait);
    timer = setTimeout(open, wait);
  }

  function end() {
    stop();
    onend();
  }

  function seen() {
    if (document.hidden) close();
    else open();
  }

  function stop() {
    stopped = true;
    document.removeEventListener("visibilitychange", seen);
    close();
  }

  document.addEventListener("visibilitychange", seen);
  open();
  return stop;
}
