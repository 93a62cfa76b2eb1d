// Elements from values. Text from outside only ever becomes text nodes: nothing here reads HTML.

/**
 * An element with attributes, listeners (`onclick: f`) and children: nodes, texts, numbers, or arrays of them. What is
 * null, undefined or false is left out.
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Give `element` these children in place of those it has. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

export const byId = (id) => document.getElementById(id);

/** Children for a text of the service whose parts in backquotes are code. */
export const withCode = (text) => text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));

/** A table of `columns` ({title, cell(row), number?, sort?}) over `rows`, in a box that scrolls by itself. */
export function table(columns, rows, caption) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.number && "number" }, c.title)))),
      h("tbody", {}, rows.map((row) =>
        h("tr", {}, columns.map((c) => h("td", { class: c.number && "number" }, c.cell(row))))))));
}

/** Show in `element` what went wrong: of a problem its detail, remedy and faults (RFC 9457), else the message. */
export function showError(element, error) {
  const problem = error.problem;
  fill(element, h("div", { class: "error", role: "alert" },
    h("p", {}, h("strong", {}, problem?.detail || error.message || String(error))),
    problem?.remedy && h("p", {}, problem.remedy),
    problem?.errors?.length > 0 && h("ul", {}, problem.errors.map((fault) =>
      h("li", {}, h("code", {}, fault.pointer), " ", fault.detail, fault.remedy && ` ${fault.remedy}`)))));
}
