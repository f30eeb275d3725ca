// How the workers run: figures of the last seconds, their course while the console is open, routes and workers.

import { lines } from "../../chart.js";
import { h } from "../../dom.js";
import { compact, fixed, number, percent, time } from "../../format.js";
import { table } from "../../table.js";

const total = (rates) => Object.values(rates).reduce((sum, rate) => sum + rate, 0);
const listed = (rates) => Object.entries(rates).map(([name, rate]) => `${name.replaceAll("_", " ")} ${compact(rate)}`).join(", ");
const failures = (statuses) => total(Object.fromEntries(Object.entries(statuses).filter(([status]) => status.startsWith("5"))));
const milliseconds = (value) => (value === undefined || value === null ? "–" : value > 0 && value < 10 ? fixed(value, 1) : fixed(value, 0));

/** Show the latest of some readings of /v1/metrics/live, {time, metrics}, and their course. */
export const operation = (readings) => [figures(readings.at(-1).metrics.total), charts(readings)];

/** Show the busiest routes, and the workers if there are several. */
export const routesAndWorkers = ({ routes, workers }) => [routeTable(routes), workers.length > 1 && workerTable(workers)];

function figures(all) {
  const failed = failures(all.statuses), refused = total(all.refused), degraded = total(all.degraded), lost = total(all.store.failures);
  return h("dl", { class: "figures" },
    figure("Requests", compact(all.requests), "/s"),
    figure("Median", milliseconds(all.p50_ms), "ms"),
    figure("99th percentile", milliseconds(all.p99_ms), "ms"),
    figure("Failed", compact(failed), "/s", "status 5xx", failed > 0 && "bad"),
    figure("Refused", compact(refused), "/s", listed(all.refused) || "load, rates, keys", refused > 0 && "warn"),
    figure("Degraded", compact(degraded), "/s", listed(all.degraded) || "no store, or no time", degraded > 0 && "warn"),
    figure("Session store", milliseconds(all.store.p50_ms), "ms", lost > 0 ? `${compact(lost)}/s fail` : `${compact(all.store.calls)} calls/s`, lost > 0 && "bad"),
    figure("Recall", all.recall.value === undefined ? "–" : percent(all.recall.value), "", all.recall.answers ? `${percent(all.recall.low)} to ${percent(all.recall.high)}, ${number(all.recall.answers)} compared` : "none compared yet"));
}

function figure(name, value, unit, note, state) {
  return h("div", {}, h("dt", {}, name), h("dd", { class: state || null }, value, value !== "–" && h("small", {}, ` ${unit}`)), note && h("dd", { class: "note" }, note));
}

function charts(readings) {
  const times = readings.map((reading) => reading.time);
  const column = (value) => readings.map(({ metrics }) => value(metrics.total) ?? null);
  return h("div", { class: "cards" },
    h("section", { class: "card", "aria-label": "Requests per second" }, h("header", {}, h("h2", {}, "Requests per second")),
      lines({ times, timeFormat: time, label: "Requests per second", series: [{ name: "all", values: column((all) => all.requests) }, { name: "refused", values: column((all) => total(all.refused)) }, { name: "degraded", values: column((all) => total(all.degraded)) }] })),
    h("section", { class: "card", "aria-label": "Time of requests" }, h("header", {}, h("h2", {}, "Time of requests")),
      lines({ times, timeFormat: time, format: (value) => `${milliseconds(value)} ms`, label: "Percentiles of the time of requests", series: [{ name: "median", values: column((all) => all.p50_ms) }, { name: "95th percentile", values: column((all) => all.p95_ms) }, { name: "99th percentile", values: column((all) => all.p99_ms) }] })));
}

const timeColumns = [
  { name: "requests", text: "Requests/s", number: true, show: (row) => compact(row.requests), value: (row) => row.requests },
  { name: "p50", text: "Median, ms", number: true, show: (row) => milliseconds(row.p50_ms), value: (row) => row.p50_ms },
  { name: "p99", text: "99 %, ms", number: true, show: (row) => milliseconds(row.p99_ms), value: (row) => row.p99_ms },
];

function routeTable(routes) {
  const columns = [{ name: "route", text: "Route", show: (row) => h("code", {}, `${row.method} ${row.route}`), value: (row) => row.route }, ...timeColumns];
  return h("section", { class: "card", "aria-label": "Routes" }, table({ label: "Routes now", rows: routes.slice(0, 8), sort: "requests", columns, empty: "No request in the last seconds." }));
}

function workerTable(workers) {
  const columns = [
    { name: "pid", text: "Worker", show: (row) => row.pid, value: (row) => row.pid }, ...timeColumns,
    { name: "refused", text: "Refused/s", number: true, show: (row) => compact(total(row.refused)), value: (row) => total(row.refused) },
    { name: "recall", text: "Recall", number: true, show: (row) => percent(row.recall.value), value: (row) => row.recall.value },
  ];
  return h("section", { class: "card", "aria-label": "Workers" }, table({ label: "Workers now", rows: workers, sort: "pid", columns }));
}
