// Predictions: a picture is dropped or chosen, the job's best student looks at it, and its boxes are drawn over it.

import { fill, h, showError, table } from "./dom.js";
import { query, sendRaw } from "./api.js";
import { boxed, tone } from "./boxes.js";
import { count, significant } from "./format.js";

const LEAST = 0.05;  // score of what is asked for; the slider hides more
const SHOWN = 0.3;
const MOST = 300;

/** What takes a picture and shows what is found in it. */
export function predictor(job) {
  const input = h("input", { type: "file", id: "image", class: "hidden", accept: "image/*,.ppm", "aria-describedby": "image-help" });
  const zone = h("label", { class: "drop", for: "image" }, h("strong", {}, "Drop an image here, or choose one"), input,
    h("span", { class: "soft", id: "image-help" },
      "JPEG, PNG, WEBP, BMP, TIFF, GIF or PPM. The best student looks at it; nothing is kept."));
  const told = h("p", { role: "status", class: "soft" });
  const answer = h("div");
  let address = null, asking = null;

  async function ask(file) {
    asking?.abort();
    const mine = asking = new AbortController();
    fill(told, `Looking at ${file.name} …`);
    fill(answer);
    try {
      const found = await (await predict(file, "application/json", mine.signal)).json();
      if (asking !== mine) return;
      await show(file, found, mine.signal);
    } catch (error) {
      if (asking !== mine || error.name === "AbortError") return;
      fill(told);
      showError(answer, error);
    }
  }

  const predict = (file, accept, signal) =>
    sendRaw(`/jobs/${job.id}/predict${query({ score: LEAST, max: MOST })}`, file,
      { "content-type": "application/octet-stream", accept }, { signal });

  async function show(file, found, signal) {
    const [image] = found.images;
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    const names = new Map(found.categories.map((category, at) => [category.id, { name: category.name, tone: tone(at) }]));
    const boxes = found.results.map(({ category_id, bbox: [x, y, width, height], score }) =>
      ({ x, y, width, height, score, ...names.get(category_id) }));
    fill(told, summary(image));
    const view = boxed(address, image.width, image.height, `${file.name} with ${count(boxes.length)} boxes`);
    view.picture.onerror = async () => {  // a format that browsers do not know: the service draws it
      try {
        const drawn = await (await predict(file, "image/png", signal)).blob();
        address = URL.createObjectURL(drawn);
        view.picture.onerror = null;
        view.picture.src = address;
        view.draw([]);
        view.draw = () => {};  // its boxes are in the picture
      } catch (error) {
        if (error.name !== "AbortError") showError(told, error);
      }
    };
    results(view, boxes);
  }

  function results(view, boxes) {
    const list = h("div"), counted = h("output", { for: "score" });
    const slider = h("input", { type: "range", id: "score", min: LEAST, max: 1, step: 0.01, value: SHOWN, oninput: draw });
    function draw() {
      const shown = boxes.filter((box) => box.score >= Number(slider.value));
      view.draw(shown.map((box) => ({ ...box, label: `${box.name} ${box.score.toFixed(2)}` })));
      fill(counted, `${Number(slider.value).toFixed(2)}: ${count(shown.length)} of ${count(boxes.length)}`);
      fill(list, shown.length === 0 ? h("p", { class: "soft" }, "Nothing has so high a score.") : detections(shown));
    }
    fill(answer, h("div", { class: "row" }, h("div", {}, h("label", { for: "score" }, "Scores from "), " ", counted, h("br"), slider)),
      h("div", { class: "columns" }, h("div", {}, view.element), list));
    draw();
  }

  zone.ondragover = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) ask(file);
  };
  input.onchange = () => {
    const [file] = input.files;
    input.value = "";  // so that the same file can be chosen again
    if (file) ask(file);
  };
  return [zone, told, answer];
}

function summary(image) {
  return [
    `${count(image.width)} × ${count(image.height)} pixels`,
    image.milliseconds && `the network took ${significant(image.milliseconds.model, 3)} ms, `
      + `all of it ${significant(image.milliseconds.total, 3)} ms`,
    image.left_out > 0 && `${count(image.left_out)} with lower scores are left out`,
    image.remark,
  ].filter(Boolean).join("; ");
}

function detections(boxes) {
  const made = table([
    { title: "Class", cell: (box) => h("span", { class: "name" }, box.name) },
    { title: "Score", number: true, cell: (box) => box.score.toFixed(3) },
    ...["x", "y", "width", "height"].map((side) => ({ title: side, number: true, cell: (box) => box[side].toFixed(1) })),
  ], boxes, "What was found, best first");
  made.classList.add("tall");
  return made;
}
