// Live: how the service runs at this moment, and what its answers lead to.

import { Problem, call, get } from "../api.js";
import { lines } from "../chart.js";
import { problemBox } from "../dialog.js";
import { fill, h, s } from "../dom.js";
import { compact, fixed, number, percent, plural, short, time } from "../format.js";
import { interval, parse, quantiles, sum } from "../prometheus.js";
import { table } from "../table.js";

export const title = "Live";

const EVERY_MS = 5000;
const KEPT = 120; // readings: ten minutes
const WINDOWS = [["PT15M", "15 min"], ["PT1H", "1 h"], ["P1D", "24 h"], ["P7D", "7 d"], ["P30D", "30 d"]];
const DIMENSIONS = [["scenario", "Scenario"], ["bundle", "Bundle"], ["variant", "Variant"]];
const readings = []; // kept while other pages are shown

const isRecommendation = ({ route }) => /recommendations/.test(route ?? "");
const isEvent = ({ route }) => route === "/v1/events";

export default async function live(page, parameters, signal) {
  const state = { window: parameters.get("window") ?? "P1D", by: parameters.get("by") ?? "scenario" };
  const health = h("div"), operation = h("div", { class: "sides" }), outcomes = h("div");
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
      shown(operation, "metrics", async () => {
        readings.push({ time: Date.now(), metrics: parse((await call("GET", "metrics", undefined, { signal })).body) });
        readings.splice(0, readings.length - KEPT);
        return operationFigures(readings);
      }),
      showOutcomes(),
    ]);
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Live"), health),
    operation,
    h("section", { class: "card", "aria-label": "What answers lead to" },
      h("header", { class: "wrapping" }, h("h2", {}, "What answers lead to"), groups, h("div", { class: "end" }, windows)), outcomes));
  choices(windows, WINDOWS, "window");
  choices(groups, DIMENSIONS, "by");
  await update();
  const soon = setTimeout(update, readings.length > 1 ? EVERY_MS : 1000);
  const timer = setInterval(() => { if (!document.hidden) update(); }, EVERY_MS);
  signal.addEventListener("abort", () => { clearTimeout(soon); clearInterval(timer); });
}

/** Fill a node with what a call makes, or with why it failed. */
async function shown(node, scope, work) {
  try {
    fill(node, await work());
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    fill(node, error.status === 404 ? h("div", { class: "card" }, h("div", { class: "empty" }, "This deployment does not publish /metrics.")) : h("div", { class: "card" }, problemBox(error, scope)));
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

function operationFigures(readings) {
  const steps = readings.slice(1).map((reading, index) => stepBetween(readings[index], reading));
  const last = steps.at(-1);
  if (!last) return h("div", { class: "card" }, h("div", { class: "empty" }, "Measuring …"));
  const times = steps.map((step) => step.time);
  const column = (name) => steps.map((step) => step[name]);
  const milliseconds = (value) => `${value > 0 && value < 10 ? fixed(value, 1) : fixed(value, 0)} ms`;
  return [
    h("dl", { class: "figures" },
      figure("Requests", `${compact(last.requests)}`, "/s"),
      figure("Median", last.p50 === null ? "–" : fixed(last.p50, 1), "ms", "recommendations"),
      figure("99th percentile", last.p99 === null ? "–" : fixed(last.p99, 1), "ms", "recommendations"),
      figure("Failed", compact(last.failed), "/s", "status 5xx", last.failed > 0 && "bad"),
      figure("Refused", compact(last.refused), "/s", "load, rates, keys", last.refused > 0 && "warn"),
      figure("Degraded", compact(last.degraded), "/s", "without the store or in haste", last.degraded > 0 && "warn"),
      figure("Session store", last.store === null ? "–" : fixed(last.store, 2), last.store === null ? "" : "ms", last.storeFailures > 0 ? `${number(last.storeFailures)}/s fail` : "answers", last.storeFailures > 0 && "bad")),
    h("div", { class: "cards" },
      h("section", { class: "card", "aria-label": "Requests per second" }, h("header", {}, h("h2", {}, "Requests per second")),
        lines({ times, timeFormat: time, label: "Requests per second over time", series: [{ name: "recommendations", values: column("recommendations") }, { name: "events", values: column("events") }, { name: "other", values: column("others") }] })),
      h("section", { class: "card", "aria-label": "Time of recommendations" }, h("header", {}, h("h2", {}, "Time of recommendations")),
        lines({ times, timeFormat: time, format: milliseconds, label: "Percentiles of the time of recommendations", series: [{ name: "median", values: column("p50") }, { name: "90th percentile", values: column("p90") }, { name: "99th percentile", values: column("p99") }] }))),
  ];
}

function figure(name, value, unit, note, state) {
  return h("div", {}, h("dt", {}, name), h("dd", { class: state || null }, value, h("small", {}, ` ${unit}`)), note && h("dd", { class: "note" }, note));
}

/** The figures between two readings of all workers. */
function stepBetween({ time: from, metrics: before }, { time, metrics: after }) {
  const seconds = (time - from) / 1000;
  const rate = (name, isWanted) => Math.max(0, sum(after, name, isWanted) - sum(before, name, isWanted)) / seconds;
  const [p50, p90, p99] = quantiles(before, after, "onward_request_seconds", [0.5, 0.9, 0.99], isRecommendation).map((value) => (value === null ? null : value * 1000));
  const [store] = quantiles(before, after, "onward_store_seconds", [0.5]);
  const requests = rate("onward_requests_total"), recommendations = rate("onward_requests_total", isRecommendation), events = rate("onward_requests_total", isEvent);
  return {
    time, requests, recommendations, events, others: requests - recommendations - events, p50, p90, p99,
    failed: rate("onward_requests_total", ({ status }) => status?.startsWith("5")),
    refused: rate("onward_refused_requests_total"), degraded: rate("onward_degraded_answers_total"),
    store: store === null ? null : store * 1000, storeFailures: rate("onward_store_failures_total"),
  };
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
