// A small line without axes, drawn as SVG: how a series went, not what it was.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [96, 24];

/** The line through the finite of `values`; `title` says what it is to those who cannot see it. */
export function sparkline(values, title) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "sparkline");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const finite = values.filter(Number.isFinite);
  if (finite.length < 2) return svg;
  const [least, greatest] = [Math.min(...finite), Math.max(...finite)];
  const path = document.createElementNS(SVG, "path");
  const points = finite.map((value, place) => {
    const x = (place / (finite.length - 1)) * WIDTH;
    const y = greatest === least ? HEIGHT / 2 : 2 + ((greatest - value) / (greatest - least)) * (HEIGHT - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  path.setAttribute("d", `M${points.join("L")}`);
  svg.append(path);
  return svg;
}
