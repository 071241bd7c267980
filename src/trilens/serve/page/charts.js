// Small charts, drawn by hand: bars, a line, intervals.
import { make } from "./dom.js";
import { t } from "./words/words.js";

/** Bars for {name: number}; `say` writes the numbers. @param {Record<string, number>} parts @param {(n: number) => string} say */
export function bars(parts, say) {
  const most = Math.max(...Object.values(parts), 1);
  const rows = Object.entries(parts).flatMap(([name, n]) => [
    make("span", {}, t(`part_${name}`)),
    make("i", { style: { "--share": n / most } }),
    make("span", {}, say(n)),
  ]);
  return make("div", { class: "bars" }, ...rows);
}

/**
 * A line through [[x, y], ...] from 0, with its last point in words.
 * @param {[number, number][]} points @param {(n: number) => string} sayX @param {(n: number) => string} sayY @param {string} label
 */
export function line(points, sayX, sayY, label) {
  const [width, height, left, bottom, top] = [340, 150, 8, 22, 18];
  const mostX = points[points.length - 1][0];
  const mostY = Math.max(...points.map(([, y]) => y), 1);
  const x = (/** @type {number} */ n) => left + ((width - 2 * left) * n) / mostX;
  const y = (/** @type {number} */ n) => height - bottom - ((height - bottom - top) * n) / mostY;
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  return make(
    "svg:svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label },
    make("svg:path", { class: "area", d: `${path}L${x(mostX)} ${y(0)}L${x(points[0][0])} ${y(0)}Z` }),
    make("svg:path", { class: "line", d: path }),
    make("svg:line", { class: "axis", x1: left, x2: width - left, y1: y(0), y2: y(0) }),
    make("svg:text", { x: left, y: height - 6 }, sayX(points[0][0])),
    make("svg:text", { x: width - left, y: height - 6, "text-anchor": "end" }, sayX(mostX)),
    make("svg:text", { x: width - left, y: 12, "text-anchor": "end" }, sayY(mostY)),
  );
}

/** Rows of {name, p10, p50, p90, measured, say}: the interval that was predicted, and a dot for what it took. @param {any[]} rows */
export function intervals(rows) {
  // a unit that both have is said once
  const unit = (/** @type {string} */ said) => said.replace(/^[\d.,]+/, "");
  const between = (/** @type {string} */ a, /** @type {string} */ b) => t("between", { a: unit(a) === unit(b) ? a.slice(0, a.length - unit(a).length) : a, b });
  const [width, height, edge] = [340, 20, 10];
  return rows.map(({ name, p10, p50, p90, measured, say }) => {
    const most = Math.max(p90, measured) * 1.08;
    const x = (/** @type {number} */ n) => edge + ((width - 2 * edge) * n) / most;
    const y = height / 2;
    const words = t("predicted", { p50: say(p50), range: p10 === p90 ? say(p10) : between(say(p10), say(p90)), measured: say(measured) });
    const chart = make(
      "svg:svg",
      { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": `${name}: ${words}` },
      make("svg:line", { class: "axis", x1: edge, x2: width - edge, y1: y, y2: y }),
      make("svg:line", { class: "range", x1: x(p10), x2: x(p90), y1: y, y2: y }),
      make("svg:line", { class: "middle", x1: x(p50), x2: x(p50), y1: y - 6, y2: y + 6 }),
      make("svg:circle", { class: "took", cx: x(measured), cy: y, r: 4 }),
    );
    return make("div", { class: "interval" }, make("p", {}, make("b", {}, name), ` ${words}`), chart);
  });
}
