// How boxes of validation images are drawn and told: by pattern and word first, by colour besides.

import { h, table } from "./dom.js";
import { count } from "./format.js";

/** By kind: the class of its colour, the pattern of its line, and what it means. */
export const KINDS = {
  true: { tone: "kind-true", dash: null, words: "found" },
  false: { tone: "kind-false", dash: "9 4", words: "false" },
  missed: { tone: "kind-missed", dash: "2 4", words: "missed" },
  ignored: { tone: "kind-ignored", dash: "12 4 2 4", words: "ignored" },
  truth: { tone: "kind-truth", dash: "1 0", words: "to be found" },
};
const MODELS = { student: "Student", teacher: "Teacher", against: "Other job" };

const place = ([x, y, width, height]) => ({ x, y, width, height });

/**
 * The boxes of an image in these layers, as `boxed` draws them. In small pictures what was found goes without words, and
 * the rest without scores: there is no room.
 */
export function boxesOf(image, layers, large) {
  const shown = Object.keys(MODELS).filter((model) => layers.has(model) && image[model]);
  const several = shown.length > 1;
  const truth = layers.has("truth") ? image.truth.map((box) => ({
    ...place(box.box), tone: KINDS.truth.tone, dash: KINDS.truth.dash,
    label: large && shown.length === 0 ? box.class_name : null,
  })) : [];
  return [...truth, ...shown.flatMap((model) => image[model].boxes.map((box) => ({
    ...place(box.box), tone: KINDS[box.kind].tone, dash: KINDS[box.kind].dash,
    label: large || box.kind !== "true" || several
      ? [several && MODELS[model], box.kind !== "true" && KINDS[box.kind].words, box.class_name,
        large && box.score?.toFixed(2)].filter(Boolean).join(" ") : null,
  })))];
}

export const counts = (of) => `${count(of.true)} found, ${count(of.false)} false, ${count(of.missed)} missed`;

/** A line for each model: how it did in this image. */
export const counted = (image) => Object.entries(MODELS).filter(([model]) => image[model]).map(([model, name]) =>
  `${name}: ${counts(image[model])}, F1 ${image[model].f1.toFixed(2)}`);

/** All boxes of an image in words. */
export function detail(image, layers) {
  const rows = Object.entries(MODELS).filter(([model]) => layers.has(model) && image[model])
    .flatMap(([model, name]) => image[model].boxes.map((box) => ({ ...box, model: name })));
  return table([
    { title: "Model", cell: (box) => box.model },
    { title: "What", cell: (box) => KINDS[box.kind].words },
    { title: "Class", cell: (box) => h("span", { class: "name" }, box.class_name) },
    { title: "Score", number: true, cell: (box) => box.score?.toFixed(3) },
    { title: "Box (x, y, width, height)", cell: (box) => box.box.map((one) => one.toFixed(1)).join(", ") },
  ], rows, "Boxes of this image");
}
