// Data: what a bundle was trained on, and how much the events of now differ from it.

import { Problem, get, segment } from "../api.js";
import { columns } from "../chart.js";
import { problemBox } from "../dialog.js";
import { fill, h, select } from "../dom.js";
import { compact, dateTime, number, percent, short } from "../format.js";
import { table } from "../table.js";

export const title = "Data";
export const scope = "admin"; // what a key must be allowed to, for most of the page

export default async function data(page, parameters, signal) {
  const report = h("div", { class: "sides" });
  let bundles;
  try {
    bundles = (await get("v1/bundles", {}, { signal })).bundles.filter((bundle) => bundle.state !== "removed");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    fill(page, h("h1", {}, "Data"), problemBox(error, "admin"));
    return;
  }

  async function show(digest) {
    history.replaceState(null, "", `#/data?bundle=${digest}`);
    try {
      fill(report, figures(await get(`v1/bundles/${segment(digest)}/data`, {}, { signal })));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      fill(report, error.code === "bundle_not_found"
        ? h("div", { class: "card" }, h("div", { class: "empty" }, h("strong", {}, "No figures of its data are stored with this bundle"), h("p", {}, "Bundles have them that are exported from now on, from datasets that prepare made.")))
        : problemBox(error, "admin"));
    }
  }

  const chosen = bundles.find((bundle) => bundle.bundle === parameters.get("bundle")) ?? bundles[0];
  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Data"), h("p", {}, "What a bundle was trained on."),
      chosen && h("div", { class: "end" }, select(bundles.map((bundle) => [bundle.bundle, `${bundle.model} ${short(bundle.bundle)}, ${bundle.state}`]), chosen.bundle, show, { "aria-label": "Bundle" }))),
    report);
  if (chosen) await show(chosen.bundle);
  else fill(report, h("div", { class: "card" }, h("div", { class: "empty" }, "No bundle has been published yet.")));
}

function figures(data) {
  const all = Object.values(data.parts);
  const total = (name) => all.reduce((sum, part) => sum + part[name], 0);
  return [
    h("dl", { class: "figures" },
      figure("Events", compact(total("events"))),
      figure("Sessions", compact(total("sessions"))),
      figure("Items", compact(Math.max(...all.map((part) => part.items)))),
      figure("Seen before", percent(data.repeated), "events on an item that the session had"),
      figure("Same again", percent(data.same_as_before), "events on the item at hand"),
      figure("Unknown in test", percent(data.unknown_in_test), "test events of items that training lacks"),
      figure("Drift", percent(data.drift), "of popularity, from training to test"),
      figure("Known now", percent(data.known_now), "of recent events; new items lower it")),
    h("div", { class: "cards" },
      chart("Sessions by number of events", data.session_lengths),
      chart("Events by day", data.events_by_day, compact, "The log has no times."),
      chart("Share of events by popularity of items", data.popularity, (value) => percent(value, 0)),
      h("section", { class: "card", "aria-label": "Parts" }, h("header", {}, h("h2", {}, "Parts")), partTable(data.parts))),
    h("section", { class: "card", "aria-label": "Where every row went" }, h("header", {}, h("h2", {}, "Where every row went"), h("small", { class: "end" }, `prepared ${dateTime(data.prepared)}, `, h("code", {}, short(data.fingerprint)))),
      h("div", { class: "body" }, h("ul", {}, data.rows.map((row) => h("li", {}, row))))),
  ];
}

const figure = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value), note && h("dd", { class: "note" }, note));

function chart(name, bars, format = compact, empty = "Nothing to show.") {
  return h("section", { class: "card", "aria-label": name }, h("header", {}, h("h2", {}, name)),
    bars.length ? columns({ bars, label: `Chart: ${name}`, format }) : h("div", { class: "empty" }, empty));
}

function partTable(parts) {
  const rows = Object.entries(parts).map(([name, part]) => ({ name, ...part }));
  const count = (name, text) => ({ name, text, number: true, show: (row) => number(row[name]), value: (row) => row[name] });
  return table({ label: "Parts of the dataset", rows, columns: [{ name: "name", text: "Part", show: (row) => row.name }, count("events", "Events"), count("sessions", "Sessions"), count("items", "Items"), count("examples", "Examples")] });
}
