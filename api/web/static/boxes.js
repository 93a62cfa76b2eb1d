// A picture with boxes over it, drawn as SVG: sharp at every size, and each box says in words what it is.

import { h } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const TONES = 8;  // colours, in job.css
const TEXT_PIXELS = 12;

/** The colour of the class with this place in a list of classes. */
export const tone = (place) => `tone-${place % TONES}`;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * The picture at `source`, of `width` times `height` pixels.
 * @returns {{element: HTMLElement, picture: HTMLImageElement, draw: (boxes) => void}} `draw` takes boxes in its pixels:
 * {x, y, width, height, label, tone: a class of job.css, dash: a pattern or none}
 */
export function boxed(source, width, height, alternative) {
  const picture = h("img", { src: source, width, height, alt: alternative });
  const over = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const element = h("div", { class: "boxed" }, picture, over);
  let drawn = [];

  function draw(boxes) {
    drawn = boxes;
    const shown = picture.clientWidth || width;
    const size = (TEXT_PIXELS * width) / shown;  // as large on every screen
    over.replaceChildren(...boxes.flatMap((box) => {
      const place = { x: box.x, y: box.y, width: box.width, height: box.height };
      const above = box.y > 1.4 * size;
      const text = box.label && svg("text", {
        x: Math.max(box.x, 0.2 * size), y: above ? box.y - 0.35 * size : box.y + 1.1 * size, "font-size": size.toFixed(2),
      }, box.label);
      return [svg("rect", { ...place, class: "halo" }), svg("rect", { ...place, class: box.tone, "stroke-dasharray": box.dash }), text]
        .filter(Boolean);
    }));
  }

  new ResizeObserver(() => draw(drawn)).observe(picture);
  return { element, picture, draw };
}

/** A short piece of a box's line, for a legend. */
export function legendLine(name, dash) {
  const box = { x: 2, y: 2, width: 32, height: 12 };
  return svg("svg", { width: 36, height: 16, "aria-hidden": "true", class: "key" },
    svg("rect", { ...box, class: "halo" }), svg("rect", { ...box, class: name, "stroke-dasharray": dash }));
}
