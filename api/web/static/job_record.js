// What is on record of a job: why it failed, its states and attempts, its specification and its files.

import { fill, h, table } from "./dom.js";
import { bytes, count, time } from "./format.js";
import { state } from "./job_parts.js";

/** Why it failed, or why it waits to be tried again, with the last lines of its log; nothing if nothing went wrong. */
export function failureOf(job) {
  const failure = job.failure ?? (job.status === "queued" ? job.attempts.at(-1)?.failure : null);
  return failure && h("div", { class: "error", role: "alert" },
    h("p", {}, h("strong", {}, job.status === "failed" ? "It failed: " : "Its last attempt failed: ", failure.failure_class)),
    h("p", {}, failure.message),
    failure.where && h("p", {}, "Where: ", h("code", {}, failure.where)),
    failure.remedy && h("p", {}, failure.remedy),
    lastLines(failure));
}

const lastLines = (failure) => failure.log_tail.length > 0 && h("details", {},
  h("summary", {}, `The last ${failure.log_tail.length === 1 ? "line" : `${failure.log_tail.length} lines`} of its log`),
  h("pre", { class: "tail", tabindex: 0 }, failure.log_tail.join("\n")));

export function transitionsOf(job) {
  return [h("h3", {}, "States"), table([
    { title: "When", cell: (one) => h("time", { datetime: one.at, title: one.at }, time(one.at)) },
    { title: "From", cell: (one) => one.from_status && state(one.from_status) },
    { title: "To", cell: (one) => state(one.to_status) },
    { title: "Why", cell: (one) => one.reason },
  ], job.transitions, "States of the job, oldest first")];
}

export function attemptsOf(job) {
  return [h("h3", {}, "Attempts"), job.attempts.length === 0
    ? h("p", { class: "soft" }, "No worker has taken it yet.")
    : table([
      { title: "Number", number: true, cell: (one) => one.number },
      { title: "State", cell: (one) => state(one.status) },
      { title: "Worker", cell: (one) => [one.worker, one.device && h("span", { class: "soft" }, ` ${one.device}`)] },
      { title: "Began", cell: (one) => time(one.started_at) },
      { title: "Ended", cell: (one) => time(one.ended_at) },
      { title: "From step", number: true, cell: (one) => count(one.resumed_from_step) },
      { title: "Failure", cell: (one) => one.failure && [
        h("strong", {}, one.failure.failure_class), ": ", one.failure.message, " ", one.failure.remedy, lastLines(one.failure)] },
    ], job.attempts, "Attempts, oldest first")];
}

export function warningsOf(job) {
  return job.warnings.length > 0 && [
    h("h3", {}, "Found in its data"),
    table([
      { title: "What", cell: (one) => h("code", {}, one.kind) },
      { title: "How many", number: true, cell: (one) => count(one.count) },
      { title: "Found", cell: (one) => [one.detail, one.remedy && h("span", { class: "soft" }, ` ${one.remedy}`)] },
      { title: "First ids", cell: (one) => one.ids.length > 0 && `${one.of} ${one.ids.join(", ")}` },
      { title: "Where", cell: (one) => h("code", {}, one.pointer) },
    ], job.warnings, "Warnings about the data")];
}

export function specOf(job) {
  const text = JSON.stringify(job.spec, null, 2);
  const shown = h("pre", { tabindex: 0, role: "region", "aria-label": "Specification" }, text);
  const told = h("span", { class: "soft", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      fill(told, "Copied.");
    } catch {  // only addresses with TLS, or this machine's own, have a clipboard
      getSelection().selectAllChildren(shown);
      fill(told, "Selected: copy it with the keyboard.");
    }
  };
  return [h("div", { class: "row" },
    h("button", { type: "button", onclick: copy }, "Copy"), told,
    h("span", { class: "soft" }, `With all defaults, as it is stored: ${job.kind}, version ${job.spec_version}.`)), shown];
}

export function artifactsOf(artifacts) {
  return artifacts.length === 0 ? h("p", { class: "empty" }, "It has published no file yet.") : table([
    { title: "Name", cell: (one) => h("a", { href: one.url, download: true }, one.name) },
    { title: "Kind", cell: (one) => one.kind },
    { title: "Size", number: true, cell: (one) => h("span", { title: `${count(one.size)} bytes` }, bytes(one.size)) },
    { title: "Step", number: true, cell: (one) => count(one.step) },
    { title: "Made", cell: (one) => time(one.created_at) },
    { title: "SHA-256", cell: (one) => h("code", { class: "digest" }, one.sha256) },
  ], artifacts, "Files");
}
