// The form for a training or a sweep: the knobs that matter, each with its place in the body and what the schema says.

import { h } from "./dom.js";
import { isSection, pointerOf, valueAt } from "./paths.js";
import { faultPlace, field } from "./spec_field.js";
import { sweepFields } from "./sweep_fields.js";
import { teacherFields } from "./teacher_fields.js";

const SECTIONS = [
  { title: "Data", below: ["data"], fields: [
    [["data", "train", "annotations"], "Training annotations"], [["data", "train", "images"], "Training images"],
    [["data", "val", "annotations"], "Validation annotations"], [["data", "val", "images"], "Validation images"]] },
  { title: "Student", below: ["student"], fields: [
    [["student", "detector"], "Detector"], [["student", "backbone", "name"], "Backbone"],
    [["student", "backbone", "width"], "Width of the backbone"]] },
  { title: "Training", below: [], fields: [
    [["schedule", "epochs"], "Epochs"], [["batch_size"], "Batch size"], [["optimizer", "name"], "Optimizer"],
    [["optimizer", "lr"], "Learning rate"], [["augment", "short_edges"], "Short edge of images, pixels"],
    [["augment", "long_edge"], "Long edge of images, pixels"]] },
];
const ONE_JOB = [[["seed"], "Seed"]];
const MORE = [
  [["schedule", "decay"], "Decay of the learning rate"], [["schedule", "warmup_steps"], "Warm-up, steps"],
  [["optimizer", "base_batch"], "Base batch of the learning rate"], [["accumulate"], "Batches a step"],
  [["precision"], "Precision"], [["device"], "Device"], [["gpus"], "GPUs"], [["loader", "workers"], "Loader processes"],
  [["evaluation", "every_epochs"], "Epochs between evaluations"], [["evaluation", "patience"], "Patience, evaluations"],
];

/**
 * @param {{mode: () => string, body: () => object, schema, presets: object[], change: (changes) => void}} options
 *   `change` takes pairs of a path in the body and its new value; undefined removes
 * @returns {{element, fill(body), showFaults(faults): object[]}} `showFaults` returns those that no field has
 */
export function specForm({ mode, body, schema, presets, change }) {
  const root = () => (mode() === "sweep" ? "base" : "spec");
  const edit = (path, value) => change([[path, value]]);
  const ofSpec = (path, label) =>
    field({ path: () => [root(), ...path], label, edit, described: schema.field("job", ["spec", ...path]) });

  const name = field({ path: () => ["name"], label: "Name", edit, described: schema.field("job", ["name"]) });
  const made = (fields) => fields.map(([path, label]) => ofSpec(path, label));
  const sections = SECTIONS.map((section) => ({ ...section, fields: made(section.fields) }));
  const [seed, more] = [made(ONE_JOB), made(MORE)];
  const teacher = teacherFields({ mode, root, presets, schema, body, change });
  const sweep = sweepFields({ schema, body, change });
  const methods = methodFields({ mode, root, schema, body, change, ofSpec });
  const groups = [];

  function group(title, below, ...children) {
    const faults = faultPlace(`group-${groups.length}`, null);
    const element = h("fieldset", {}, h("legend", {}, title), faults.element, children);
    const pointer = () => pointerOf([root(), ...below]);
    if (below.length) groups.push({ pointer, show: (found) => faults.show(found, pointer()) });
    return element;
  }

  const roots = schema.data_roots.map((path, index) => [index > 0 && " or ", h("code", {}, path)]);
  const [data, student, training] = sections.map((section) =>
    group(section.title, section.below,
      section.title === "Data" && h("p", { class: "soft" }, "Paths in ", roots, ", or relative to it."),
      h("div", { class: "fields" }, section.fields.map((one) => one.element))));
  training.lastElementChild.append(...seed.map((one) => one.element));
  training.append(folded("More knobs", more));
  const distils = group("Teacher and distillation", ["teacher"], teacher.element, methods.element);
  const ofTraining = [data, student, distils, sweep.element, training];
  const fields = [name, ...sections.flatMap((section) => section.fields), ...seed, ...more];
  const toldOther = "This job trains nothing: its specification is edited as YAML.";
  const other = h("p", { class: "notice", hidden: true }, toldOther);
  const element = h("fieldset", { class: "plain", "aria-label": "Form" }, name.element, other, ofTraining);

  return {
    element,
    fill(value) {
      const trains = mode() === "sweep" || !["evaluate", "export", "import"].includes(value.kind);
      other.hidden = trains;
      for (const part of ofTraining) part.hidden = !trains;
      sweep.element.hidden = mode() !== "sweep";
      for (const one of seed) one.element.hidden = mode() === "sweep";
      for (const one of fields) one.fill(value);
      teacher.fill(value);
      methods.fill(value);
      if (mode() === "sweep") sweep.fill(value);
    },
    showFaults(faults) {
      const ofMode = mode() === "sweep" ? sweep.places : methods.places();
      const places = [...fields, ...teacher.places(), ...ofMode, ...groups];
      const found = new Map(places.map((place) => [place, []])), rest = [];
      for (const fault of faults) (found.get(nearest(places, fault.pointer)) ?? rest).push(fault);
      for (const [place, of] of found) place.show(of);
      for (const details of element.querySelectorAll("details"))
        if (details.querySelector('[aria-invalid="true"]')) details.open = true;
      return rest;
    },
  };
}

/** Fields that are shown when somebody asks for them. */
const folded = (title, fields) => h("details", {}, h("summary", {}, title),
  h("div", { class: "fields" }, fields.map((one) => one.element)));

/** The place that a fault belongs to: at its pointer, or at the longest one above it. */
function nearest(places, pointer) {
  const above = places.filter((place) => pointer === place.pointer() || pointer.startsWith(`${place.pointer()}/`));
  return above.sort((one, other) => other.pointer().length - one.pointer().length)[0];
}

/** The methods of distillation of one job as boxes to tick, with their knobs. A sweep has them as arms. */
function methodFields({ mode, root, schema, body, change, ofSpec }) {
  const faults = faultPlace("methods-fault", null);
  const path = (...below) => [root(), "distill", ...below];
  const isOn = (value, method) => isSection(valueAt(value, path(method))) || (method === "crosskd" && usual(value));
  const usual = (value) => schema.methods.every((method) => !isSection(valueAt(value, path(method))));
  const methods = schema.methods.map((method) => {
    const id = `method-${method}`;
    const box = h("input", { type: "checkbox", id, "aria-describedby": `${id}-help`, onchange: () => {
      // The default, CrossKD, is written down as soon as anything else is ticked beside it.
      const on = schema.methods.filter((other) => (other === method ? box.checked : isOn(body(), other)));
      change([[path(), Object.fromEntries(on.map((other) => [other, valueAt(body(), path(other)) ?? {}]))]]);
    } });
    const description = schema.field("job", ["spec", "distill", method]).description.replace(/ null: off\.$/, "");
    const knobs = Object.entries(schema.section(["distill", method])).filter(([, knob]) => scalar(knob))
      .map(([knob]) => ofSpec(["distill", method, knob], knob.replaceAll("_", " ")));
    const details = folded(`Knobs of ${method}`, knobs);
    const help = h("span", { class: "soft", id: `${id}-help` }, description);
    const element = h("div", {}, box, " ", h("label", { for: id }, method), " ", help, details);
    return { method, box, knobs, details, element };
  });
  const element = h("div", { role: "group", "aria-label": "Methods of distillation" },
    methods.map((one) => one.element), faults.element);
  return {
    element,
    fill(value) {
      element.hidden = mode() === "sweep" || valueAt(value, [root(), "teacher"]) == null;
      for (const { method, box, knobs, details } of methods) {
        box.checked = isOn(value, method);
        details.hidden = !box.checked;
        for (const knob of knobs) knob.fill(value);
      }
    },
    places: () => [...methods.flatMap((one) => one.knobs),
      { pointer: () => pointerOf(path()), show: (found) => faults.show(found, pointerOf(path())) }],
  };
}

const scalar = (schema) => (schema.anyOf ?? [schema]).every((form) => !["array", "object"].includes(form.type));
