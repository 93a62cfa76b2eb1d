// The validation images of a job: what was to be found, what teacher and student found, and what they missed.

import { append, fill, h, showError } from "./dom.js";
import { get, query } from "./api.js";
import { boxed, legendLine } from "./boxes.js";
import { count, significant } from "./format.js";
import { boxesOf, counted, counts, detail, KINDS } from "./image_boxes.js";

const PAGE = 12;
const THUMBNAIL = 640;  // pixels of the longer side: sharp on screens with two for each
const LAYERS = { student: "student", teacher: "teacher", against: "other job", truth: "what was to be found" };

/**
 * Fill `place` when it comes into view. `update(evaluations, detections)` hears of the evaluations and of the artifact
 * with the detections of the best; undefined while there is none.
 */
export function imagePanel(place, job) {
  const asked = { order: "f1_loss", against: "", class: "", step: null };
  const layers = new Set(["student"]);
  const dialog = h("dialog", { class: "image" });
  const [problem, told, pages, list] = ["problem", "told", "row", "images"].map((name) => h("div", { class: name }));
  const controls = controlsOf(asked, layers, (again) => (again ? turn([]) : draw()));
  let before = [], page = null, version = null, seen = false, asking = null;

  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    seen = true;  // the first page costs the service seconds: only for those who look
    if (version) load();
  }, { rootMargin: "200px" }).observe(place);

  async function load() {
    asking?.abort();
    if (asked.order === "gain" && !asked.against) {
      fill(told, "Give the id of the other job.");
      return;
    }
    const mine = asking = new AbortController();
    fill(told, page ? told.textContent : "Looking for the boxes …");
    try {
      const place = { limit: PAGE, after: before.at(-1) };
      page = await get(`/jobs/${job}/images${query({ ...asked, ...place })}`, { signal: mine.signal });
      fill(problem);
      controls.classes(page.classes);
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      fill(told);
      showError(problem, error);
    }
  }

  function turn(to) {
    before = to;
    load();
  }

  function draw() {
    if (!page) return;
    fill(told, summary(page), page.remarks.map((remark) => h("p", { class: "notice" }, remark)));
    fill(list, page.items.length === 0 ? h("p", { class: "empty" }, "No image fits.") : page.items.map(card));
    fill(pages,
      before.length > 0 && h("button", { type: "button", onclick: () => turn(before.slice(0, -1)) }, "Previous images"),
      page.has_more && h("button", { type: "button", onclick: () => turn([...before, page.items.at(-1).id]) }, "More images"));
  }

  function card(image) {
    const view = picture(image, THUMBNAIL);
    view.draw(boxesOf(image, layers, false));
    const name = `Enlarge ${image.file_name}`;
    return h("figure", { class: "card" },
      h("button", { type: "button", class: "open", "aria-label": name, onclick: () => open(image) }, view.element),
      h("figcaption", {}, h("span", { class: "name" }, image.file_name), h("span", { class: "soft" }, ` id ${image.id}`),
        counted(image).map((line) => [h("br"), line])));
  }

  function open(image) {
    const view = picture(image, 1600);
    fill(dialog, h("div", { class: "row" }, h("strong", {}, image.file_name),
      h("button", { type: "button", onclick: () => dialog.close() }, "Close")), view.element, detail(image, layers));
    dialog.setAttribute("aria-label", image.file_name);
    dialog.showModal();
    view.draw(boxesOf(image, layers, true));
  }

  return {
    update(evaluations, detections) {
      controls.steps(evaluations.filter((one) => one.model === "student").map((one) => one.step));
      const now = detections?.sha256 ?? null;
      if (now === version && place.hasChildNodes()) return;
      version = now;
      if (!now) return fill(place, h("p", { class: "soft" }, "No evaluation has left its detections, so there are no "
        + "boxes to show. Weights of a job that has ended can be evaluated again: ",
      h("code", {}, `crosskd submit evaluate --weights-job ${job}`)));
      if (!place.contains(list)) fill(place, controls.element, legend(), problem, told, list, pages, dialog);
      if (seen && asked.step === null) load();
    },
  };
}

/** The thumbnail, which is turned as a training sees the image: boxes fit it, as they need not fit the file. */
function picture(image, size) {
  const source = `${image.thumbnail}${query({ size })}`;
  const view = boxed(source, image.width, image.height, image.file_name);
  view.picture.loading = "lazy";
  let left = 2;
  view.picture.onerror = () => {
    if (left-- > 0) setTimeout(() => { view.picture.src = source; }, 2000);  // too many were asked for at once
    else view.element.append(h("span", { class: "lacking" }, "The image cannot be shown."));
  };
  return view;
}

function summary(page) {
  const of = (name, shown) => shown && h("p", {}, h("strong", {}, name), ": ",
    shown.score === null ? "no detection is right"
      : `${counts(shown)}, F1 ${shown.f1.toFixed(3)} at scores from ${significant(shown.score, 3)}`,
    shown.step !== null && ` (step ${count(shown.step)})`);
  return [
    h("p", { class: "soft" }, count(page.images), " ",
      page.samples ? "sample images of this evaluation" : "validation images",
      `; a box is found from IoU ${page.iou} on.`),
    of("Student", page.student), of("Teacher", page.teacher), of("Other job", page.against)];
}

const legend = () => h("p", { class: "legend" }, Object.entries(KINDS).map(([, kind]) =>
  h("span", {}, legendLine(kind.tone, kind.dash), " ", kind.words)));

/** What to show: order, class, evaluation, layers. `changed(again)`: whether the service must be asked again. */
function controlsOf(asked, layers, changed) {
  const against = h("input", { id: "image-against", size: 20, placeholder: "id of a job", autocomplete: "off",
    onchange: () => { asked.against = against.value.trim(); changed(true); } });
  const order = h("select", { id: "image-order", onchange: () => { asked.order = order.value; changed(true); } },
    h("option", { value: "f1_loss" }, "where the student loses most"),
    h("option", { value: "gain" }, "where it gains most over the other job"),
    h("option", { value: "id" }, "by id"));
  const classes = h("select", { id: "image-class", onchange: () => { asked.class = classes.value; changed(true); } },
    h("option", { value: "" }, "all"));
  const slider = h("input", { type: "range", id: "image-step", min: 0, max: 0, step: 1, value: 0 });
  const at = h("output", { for: "image-step" }, "the best, all images");
  let steps = [];
  const words = () => (Number(slider.value) === steps.length ? "the best, all images"
    : `step ${count(steps[slider.value])}, sample images`);
  slider.oninput = () => {
    fill(at, words());
    slider.setAttribute("aria-valuetext", words());
  };
  slider.onchange = () => {
    asked.step = steps[slider.value] ?? null;
    changed(true);
  };
  const boxes = Object.entries(LAYERS).map(([layer, name]) => h("label", {}, h("input", {
    type: "checkbox", checked: layers.has(layer),
    onchange: (event) => {
      if (event.target.checked) layers.add(layer);
      else layers.delete(layer);
      changed(false);
    } }), ` ${name}`));
  const field = (id, title, input) => h("div", {}, h("label", { for: id }, title), h("br"), input);
  const element = h("div", {},
    h("div", { class: "row" }, field("image-order", "Order", order), field("image-against", "Other job", against),
      field("image-class", "Class", classes),
      h("div", {}, h("label", { for: "image-step" }, "Evaluation:"), " ", at, h("br"), slider)),
    h("div", { class: "row", role: "group", "aria-label": "Boxes to show" }, "Boxes: ", boxes));
  return {
    element,
    classes(names) {
      if (classes.options.length === names.length + 1) return;  // they are those of the job, whatever is asked for
      append(classes, names.map((name) => h("option", { value: name }, name)));
    },
    steps(found) {
      const best = Number(slider.value) === steps.length;
      const step = steps[slider.value];
      steps = found;
      slider.max = steps.length;
      slider.value = best ? steps.length : Math.max(0, steps.indexOf(step));
      fill(at, words());
      slider.setAttribute("aria-valuetext", words());
    },
  };
}
