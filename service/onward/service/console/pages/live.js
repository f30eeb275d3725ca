// Live: how the service runs at this moment, and what its answers lead to.

import { Problem, get } from "../api.js";
import { problemBox } from "../dialog.js";
import { fill, h, s } from "../dom.js";
import { number, percent, plural, short } from "../format.js";
import { interval } from "../statistics.js";
import { table } from "../table.js";
import { exposure } from "./live/exposure.js";
import { operation, routesAndWorkers } from "./live/operation.js";

export const title = "Live";
export const scope = "metrics"; // what a key must be allowed to, for most of the page

const EVERY_MS = 4000;
const WINDOW_S = 5;
const KEPT = 150; // readings: ten minutes
const WINDOWS = [["PT15M", "15 min"], ["PT1H", "1 h"], ["P1D", "24 h"], ["P7D", "7 d"], ["P30D", "30 d"]];
const DIMENSIONS = [["scenario", "Scenario"], ["bundle", "Bundle"], ["variant", "Variant"]];
const readings = []; // kept while other pages are shown

export default async function live(page, parameters, signal) {
  const state = { window: parameters.get("window") ?? "P1D", by: parameters.get("by") ?? "scenario" };
  const health = h("div"), figures = h("div", { class: "sides" }), details = h("div", { class: "cards" }), outcomes = h("div"), shares = h("div", { class: "body" });
  const windows = h("div", { class: "segmented", role: "group", "aria-label": "Window" });
  const groups = h("div", { class: "segmented", role: "group", "aria-label": "Grouped by" });

  function choices(node, options, name) {
    fill(node, options.map(([value, text]) => h("button", { type: "button", "aria-pressed": String(state[name] === value), onclick: () => {
      state[name] = value;
      history.replaceState(null, "", `#/live?${new URLSearchParams(state)}`);
      choices(node, options, name);
      showOutcomes();
    } }, text)));
  }

  async function showOutcomes() {
    await shown(outcomes, "admin", async () => outcomeTable(await get("v1/metrics/online", state, { signal }), state.by));
  }

  async function update() {
    await Promise.all([
      shown(health, null, async () => healthLine(await get("health/ready", {}, { signal }))),
      shown(figures, "metrics", async () => {
        const metrics = await get("v1/metrics/live", { window: WINDOW_S }, { signal });
        readings.push({ time: Date.now(), metrics });
        readings.splice(0, readings.length - KEPT);
        fill(details, routesAndWorkers(metrics));
        return operation(readings);
      }),
      showOutcomes(),
      shown(shares, "metrics", async () => exposure(await get("v1/metrics/exposure", {}, { signal }))),
    ]);
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Live"), health),
    figures,
    h("section", { class: "card", "aria-label": "What answers lead to" },
      h("header", { class: "wrapping" }, h("h2", {}, "What answers lead to"), groups, h("div", { class: "end" }, windows)), outcomes),
    details,
    h("section", { class: "card", "aria-label": "What is shown" }, h("header", {}, h("h2", {}, "What is shown")), shares));
  choices(windows, WINDOWS, "window");
  choices(groups, DIMENSIONS, "by");
  await update();
  const timer = setInterval(() => { if (!document.hidden) update(); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Fill a node with what a call makes, or with why it failed. */
async function shown(node, scope, work) {
  try {
    fill(node, await work());
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    fill(node, h("div", { class: "card" }, problemBox(error, scope)));
  }
}

function healthLine(health) {
  const faults = [
    health.refused && `bundle ${short(health.refused.bundle)} was refused: ${health.refused.reason}`,
    health.refused_keys && `keys were refused: ${health.refused_keys}`,
    health.store_misconfigured && `the store refuses the service: ${health.store_misconfigured}`,
  ].filter(Boolean);
  return h("p", { class: "row" }, h("span", { class: `dot ${faults.length ? "warn" : "good"}` }), faults.join("; ") || "Ready");
}

function outcomeTable({ outcomes, unattributed }, by) {
  const highest = Math.max(0, ...outcomes.map((row) => interval(row.clicks, row.impressions)?.[1] ?? 0));
  const revenue = (row) => row.values.purchase ?? 0;
  const name = (row) => (by === "bundle" ? h("code", { title: row.bundle }, short(row.bundle)) : row[by] || h("span", { class: "muted" }, "none"));
  return [
    table({
      label: "What answers lead to", rows: outcomes, sort: "revenue",
      empty: "No answers in this window. Events that name the recommendation_id of an answer are counted here.",
      columns: [
        { name: "group", text: DIMENSIONS.find(([value]) => value === by)[1], show: name, value: (row) => row[by] },
        { name: "revenue", text: "Revenue", number: true, show: (row) => number(revenue(row)), value: revenue, hint: "Sum of the values of purchases" },
        { name: "per", text: "Revenue per 1,000 answers", number: true, show: (row) => number((revenue(row) / row.answers) * 1000), value: (row) => revenue(row) / row.answers },
        { name: "purchases", text: "Purchases", number: true, show: (row) => number(row.purchases), value: (row) => row.purchases },
        { name: "conversion", text: "Purchases per click", number: true, show: (row) => percent(row.conversion_rate), value: (row) => row.conversion_rate },
        { name: "clicks", text: "Clicks", number: true, show: (row) => number(row.clicks), value: (row) => row.clicks },
        { name: "ctr", text: "Clicks per item shown", number: true, show: (row) => percent(row.click_through_rate, 2), value: (row) => row.click_through_rate },
        { name: "interval", text: "95 % interval", hint: "Of clicks per item shown", show: (row) => whisker(row, highest) },
        { name: "answers", text: "Answers", number: true, show: (row) => number(row.answers), value: (row) => row.answers },
      ],
    }),
    unattributed > 0 && h("div", { class: "stages" }, `${plural(unattributed, "event")} named an answer that had expired or did not show the item.`),
  ];
}

function whisker(row, highest) {
  const range = interval(row.clicks, row.impressions);
  if (!range) return "–";
  const [low, high] = range.map((share) => (share / highest) * 100), middle = (row.click_through_rate / highest) * 100;
  const text = `${percent(range[0], 2)} to ${percent(range[1], 2)}`;
  return s("svg", { class: "whisker", role: "img", "aria-label": text }, s("title", {}, text),
    s("line", { x1: `${low}%`, x2: `${high}%`, y1: 8, y2: 8, class: "s1" }), s("circle", { cx: `${middle}%`, cy: 8, r: 3, class: "f1" }));
}
