// What a sweep has beside its base: arms, seeds and the arm that the others are compared with.

import { fill, h } from "./dom.js";
import { isSection, valueAt } from "./paths.js";
import { faultPlace, field } from "./spec_field.js";
import { inline } from "./yaml.js";

const ALONE = "alone";

/** What turns `base` into an arm with these methods, as `crosskd distill --arm` does; knobs that the base has stay. */
export function armPatch(name, base, methods) {
  if (name === ALONE) return { distill: null };
  const wanted = name.split("+"), known = valueAt(base, ["distill"]);
  const others = methods.filter((method) => isSection(known) && known[method] && !wanted.includes(method));
  const entries = [...others.map((method) => [method, null]), ...wanted.map((method) => [method, {}])];
  return { distill: Object.fromEntries(entries) };
}

export function sweepFields({ schema, body, change }) {
  const methods = schema.methods;
  const combined = methods.filter((method) => method !== "crosskd").map((method) => `crosskd+${method}`);
  const list = h("ul", { class: "arms", "aria-label": "Arms" });
  const faults = faultPlace("arms-fault", null);
  const ready = h("select", { id: "arm", "aria-describedby": "arms-help arms-fault" },
    [ALONE, ...methods, ...combined].map((name) => h("option", { value: name }, name)));
  const add = h("button", { type: "button", onclick: () =>
    change([[["arms"], { ...body().arms, [ready.value]: armPatch(ready.value, body().base, methods) }]]),
  }, "Add the arm");
  const named = (path, label, help, choices) => field({
    path: () => path, label, help, described: { ...schema.field("sweep", path), choices },
    edit: (at, value) => change([[at, value]]),
  });
  const seeds = named(["seeds"], "Seeds", "Each arm is trained with each. Five or more make a verdict likely.");
  const baseline = named(["baseline"], "Baseline", undefined, []);
  const element = h("fieldset", {}, h("legend", {}, "Arms and seeds"),
    list, faults.element,
    h("div", { class: "row" },
      h("div", {}, h("label", { for: "arm" }, "Another arm"), h("br"), ready), add),
    h("p", { class: "help soft", id: "arms-help" },
      "alone: the student without a teacher. The others distil by a method, or by several. ",
      "Any other patch of the base is written in the YAML."),
    seeds.element, baseline.element);

  function remove(name) {
    const { [name]: _gone, ...rest } = body().arms;
    change([[["arms"], rest]]);
    ready.focus();
  }

  return {
    element,
    fill(value) {
      const arms = isSection(value.arms) ? Object.entries(value.arms) : [];
      const names = arms.map(([name]) => name);
      fill(list, arms.length ? arms.map(([name, patch]) => h("li", {},
        h("strong", {}, name), " ", h("code", {}, inline(patch)), " ",
        h("button", { type: "button", "aria-label": `Remove the arm ${name}`, onclick: () => remove(name) }, "Remove")))
        : h("li", {}, "none yet"));
      if (names.includes(ready.value))
        ready.value = [...ready.options].find((option) => !names.includes(option.value))?.value ?? ALONE;
      fill(baseline.input, h("option", { value: "" }, "default"),
        names.map((name) => h("option", { value: name }, name)));
      seeds.fill(value);
      baseline.fill(value);
    },
    places: [seeds, baseline, { pointer: () => "/arms", show: (found) => faults.show(found, "/arms") }],
  };
}
