// Charts as SVG.

import { fill, h, s } from "./dom.js";
import { clock, compact, fixed } from "./format.js";

/** Labelled bars that may be negative: [{label, value}], all on one scale. */
export function diverging(bars, format = (value) => fixed(value)) {
  const lowest = Math.min(0, ...bars.map((bar) => bar.value)), highest = Math.max(0, ...bars.map((bar) => bar.value));
  const span = highest - lowest || 1;
  const at = (value) => `${((value - lowest) / span) * 100}%`;
  return h("div", { class: "bars" }, bars.map(({ label, value, quiet }) => [
    h("span", { class: "label", title: label }, label),
    s("svg", { "aria-hidden": "true" }, s("rect", { x: at(Math.min(0, value)), y: 1, height: 10, rx: 1, width: `${(Math.abs(value) / span) * 100}%`, class: value < 0 ? "bar negative" : quiet ? "bar quiet" : "bar" })),
    h("span", { class: "number" }, format(value))]));
}

/**
 * Lines over time with a readout at the pointer.
 *
 * `series` are [{name, values}], one value for each of `times` (null where there is none).
 */
export function lines({ times, series, format = compact, height = 150, label, timeFormat = clock }) {
  const width = drawingWidth(), left = 44, right = 8, top = 8, bottom = 20;
  const values = series.flatMap((one) => one.values).filter((value) => value !== null && value !== undefined);
  const highest = niceMaximum(Math.max(0, ...values));
  const x = (index) => left + (index / Math.max(1, times.length - 1)) * (width - left - right);
  const y = (value) => height - bottom - (value / highest) * (height - top - bottom);
  const cursor = s("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const legend = h("div", { class: "legend" });
  const readout = (index) => fill(legend, h("span", {}, times.length ? timeFormat(times[index]) : ""), series.map((one, number) =>
    h("span", {}, h("i", { class: `f${number + 1}` }), `${one.name} `, h("b", {}, one.values[index] === null || one.values[index] === undefined ? "–" : format(one.values[index])))));
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    [0, 0.5, 1].map((share) => [
      s("line", { class: "grid", x1: left, x2: width - right, y1: y(highest * share), y2: y(highest * share) }),
      s("text", { x: left - 6, y: y(highest * share) + 4, "text-anchor": "end" }, format(highest * share))]),
    (times.length > 2 ? [0, Math.round((times.length - 1) / 2), times.length - 1] : [...times.keys()]).map((index) =>
      s("text", { x: x(index), y: height - 4, "text-anchor": index === 0 ? "start" : index === times.length - 1 ? "end" : "middle" }, timeFormat(times[index]))),
    cursor,
    series.map((one, number) => runs(one.values).map((run) => s("polyline", { class: `s${number + 1}`, points: run.map((index) => `${x(index)},${y(one.values[index])}`).join(" ") }))));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    const index = Math.max(0, Math.min(times.length - 1, Math.round(((place - left) / (width - left - right)) * (times.length - 1))));
    cursor.setAttribute("x1", x(index));
    cursor.setAttribute("x2", x(index));
    cursor.setAttribute("visibility", "visible");
    readout(index);
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); readout(times.length - 1); });
  readout(times.length - 1);
  return h("figure", {}, h("div", { class: "chart" }, svg), legend);
}

/** Columns of a histogram: [{label, value}]. */
export function columns({ bars, label, height = 140, format = compact }) {
  const width = Math.min(drawingWidth(), 460), left = 44, right = 8, top = 8, bottom = 20;
  const highest = niceMaximum(Math.max(0, ...bars.map((bar) => bar.value)));
  const step = (width - left - right) / Math.max(1, bars.length);
  const y = (value) => height - bottom - (value / highest) * (height - top - bottom);
  const longest = Math.max(...bars.map((bar) => bar.label.length));
  const every = Math.ceil((longest + 1) * LETTER / step); // so that labels do not touch
  return h("figure", {}, h("div", { class: "chart" }, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    [0, 0.5, 1].map((share) => [
      s("line", { class: "grid", x1: left, x2: width - right, y1: y(highest * share), y2: y(highest * share) }),
      s("text", { x: left - 6, y: y(highest * share) + 4, "text-anchor": "end" }, format(highest * share))]),
    bars.map((bar, index) => [
      s("rect", { class: "bar", x: left + index * step + step * 0.1, width: step * 0.8, y: y(bar.value), height: Math.max(0, height - bottom - y(bar.value)) }, s("title", {}, `${bar.label}: ${format(bar.value)}`)),
      index % every === 0 && s("text", { x: left + (index + 0.5) * step, y: height - 4, "text-anchor": "middle" }, bar.label)]))));
}

/** Width of a drawing that is scaled to its place, so that its text stays legible on a phone. */
const drawingWidth = () => (matchMedia("(max-width: 760px)").matches ? 360 : 600);

const LETTER = 6.5; // width of a letter of a label, about

/** Split indexes into runs of values without gaps. */
function runs(values) {
  const found = [];
  values.forEach((value, index) => {
    if (value === null || value === undefined) return;
    const last = found.at(-1);
    if (last && last.at(-1) === index - 1) last.push(index);
    else found.push([index]);
  });
  return found;
}

function niceMaximum(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}
