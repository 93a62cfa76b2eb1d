// A new job or sweep: the body as a form and as YAML, both of which may be edited; dry runs; and posting it once.

import { byId, fill, h, showError } from "./dom.js";
import { get, ProblemError, send } from "./api.js";
import { showPlan, showRefusal } from "./dry_run.js";
import { withValue } from "./paths.js";
import { start } from "./page.js";
import { specForm } from "./spec_form.js";
import { loadSchema } from "./spec_schema.js";
import { begin, belowSpec, fromPreset, fromText, isAlone, switched } from "./starts.js";
import { toYaml } from "./yaml.js";

const PARSE_MILLISECONDS = 300;
const DRY_RUN_MILLISECONDS = 1000;
const EDIT_MILLISECONDS = 150;

/** Of an order that is posted once, however often it is sent; `randomUUID` is there on secure origins alone. */
const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

start(async (me) => {
  const [schema, { items: presets }] = await Promise.all([loadSchema(), get("/presets")]);
  const yaml = byId("yaml"), result = byId("result"), post = byId("post"), check = byId("check");
  let { mode, body } = await begin(new URLSearchParams(location.search), presets);
  let lines = {};  // of the YAML, by pointer
  let unread = null;  // a timer: the YAML was edited and is not read yet
  let byHand = false;  // the YAML, which has comments and an order then
  let bare = false;  // the YAML is a specification without its job
  let unwritten = null;  // a timer: the form has changed the body, and the YAML written by hand lacks it
  let waiting = null, asked = 0, key = null, posting = false;
  const form = specForm({ mode: () => mode, body: () => body, schema, presets, change });
  byId("form").append(form.element);
  for (const one of presets) byId("preset").append(h("option", { value: one.name }, `${one.name} – ${one.title}`));
  byId("preset").value = new URLSearchParams(location.search).get("preset") ?? "";

  function show() {
    byId(`mode-${mode}`).checked = true;
    byId("yaml-label").textContent = `The whole ${mode} as YAML`;
    post.textContent = `Post the ${mode}`;
    form.fill(body);
  }

  /** The body is another one: what was told of the former one is void. */
  function changed() {
    key = null;
    asked += 1;
    show();
    clearTimeout(waiting);
    waiting = setTimeout(dryRun, DRY_RUN_MILLISECONDS);
  }

  function write() {
    clearTimeout(unwritten);
    unwritten = null;
    byHand = bare = false;
    yaml.value = toYaml(body);
    lines = {};
    fill(byId("yaml-problems"));
    yaml.setAttribute("aria-invalid", "false");
  }

  async function change(changes) {
    if (!(await settled())) return show();  // the form goes back: the YAML has to be mended first
    for (const [path, value] of changes) body = withValue(body, path, value);
    if (byHand) {
      clearTimeout(unwritten);
      unwritten = setTimeout(() => edit().catch(failed), EDIT_MILLISECONDS);
    } else write();
    changed();
  }

  /** Bring what the form has changed into the YAML written by hand, whose comments stay. */
  async function edit() {
    if (unwritten === null) return;
    clearTimeout(unwritten);
    const text = yaml.value, wanted = body, alone = bare && isAlone(body);
    const asking = alone ? { text, value: body.spec ?? {} } : { text: bare ? belowSpec(text) : text, value: body };
    const told = await send("POST", "/specs/edit", asking);
    if (unwritten === null || yaml.value !== text) return;  // somebody writes on by hand: that counts
    if (body !== wanted) return edit();
    unwritten = null;
    yaml.value = told.text;
    ({ lines, bare } = fromText({ value: asking.value, lines: told.lines }));
    fill(byId("yaml-problems"), told.comments_kept ? [] : "The comments could not be kept.");
  }

  function replace(next) {
    ({ mode, body } = next);
    write();
    changed();
  }

  /** Read the YAML, if it was edited; whether it says something. */
  async function settled() {
    if (unread === null) return yaml.getAttribute("aria-invalid") !== "true";
    clearTimeout(unread);
    unread = null;
    const text = yaml.value;
    const told = await send("POST", "/specs/parse", { text });
    if (yaml.value !== text) return settled();
    clearTimeout(unwritten);
    unwritten = null;
    yaml.setAttribute("aria-invalid", told.value === null);
    form.element.disabled = told.value === null;
    post.disabled = told.value === null || !me.scopes.includes("write");
    fill(byId("yaml-problems"), told.problems.map(({ line, column, detail, remedy }) =>
      h("span", { class: "line" }, `Line ${line}, column ${column}: ${detail}. ${remedy}`)));
    if (told.value === null) {
      asked += 1;  // what is on its way is about a former text, as is what stands there
      fill(result);
      clearTimeout(waiting);
      return false;
    }
    ({ mode, body, lines, bare } = fromText(told));
    byHand = true;
    changed();
    return true;
  }

  const failed = (error) => showError(result, error);
  yaml.oninput = () => {
    clearTimeout(unread);
    unread = setTimeout(() => settled().catch(failed), PARSE_MILLISECONDS);
  };

  async function dryRun() {
    clearTimeout(waiting);
    if (!me.scopes.includes("write")) return;
    if (!(await settled())) return;
    clearTimeout(waiting);
    asked += 1;
    const mine = asked, wanted = mode;
    try {
      const plan = await send("POST", `/${wanted}s?dry_run=true`, body);
      if (mine !== asked) return;
      form.showFaults([]);
      showPlan(result, wanted, plan);
    } catch (error) {
      if (mine === asked) refused(error);
    }
  }

  function refused(error) {
    if (!(error instanceof ProblemError) || error.problem === null) return failed(error);
    const faults = error.problem.errors ?? [];
    showRefusal(result, error.problem, form.showFaults(faults), (pointer) => lines[pointer]);
  }

  async function submit() {
    if (posting) return;
    posting = true;
    post.disabled = true;
    try {
      if (!(await settled())) return;
      await edit();
      clearTimeout(waiting);
      asked += 1;
      key ??= newKey();
      const made = await send("POST", `/${mode}s`, body, { headers: { "Idempotency-Key": key } });
      location.assign(`/web/${mode}s/${made.id}`);
      await new Promise(() => {});  // the page goes away
    } catch (error) {
      refused(error);
    } finally {
      posting = false;
      post.disabled = yaml.getAttribute("aria-invalid") === "true";
    }
  }

  check.onclick = () => dryRun().catch(failed);
  post.onclick = submit;
  byId("preset").onchange = async (event) => {
    const preset = presets.find((one) => one.name === event.target.value);
    if (preset && (await settled())) replace({ mode, body: fromPreset(mode, body, preset, presets) });
  };
  for (const name of ["job", "sweep"])
    byId(`mode-${name}`).onchange = async () => {
      if (await settled()) replace(switched(mode, body, name, schema.methods));
      else show();
    };
  if (!me.scopes.includes("write")) {
    post.disabled = check.disabled = true;
    const told = "Your token may read and not write: an administrator can make another one.";
    fill(result, h("p", { class: "notice" }, told));
  }
  write();
  show();
  yaml.disabled = false;
  if (location.search.includes("like")) changed();  // it was taken once: is it still?
});
