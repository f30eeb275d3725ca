// Which items answers have ever shown: coverage of the catalog, and how much goes to the most popular.

import { h } from "../../dom.js";
import { diverging } from "../../chart.js";
import { number, percent } from "../../format.js";

/** Show coverage and impressions by tenths of popularity. */
export function exposure({ items, shown, coverage, tenths }) {
  const impressions = tenths.reduce((sum, tenth) => sum + tenth.impressions, 0);
  const name = (place) => (place === 0 ? "most popular tenth" : place === tenths.length - 1 ? "least popular tenth" : `${place + 1}${["st", "nd", "rd"][place] ?? "th"} tenth`);
  return [
    h("p", {}, h("strong", {}, percent(coverage, 2)), ` of the items have been shown: ${number(shown)} of ${number(items)}. `, shown < items && h("a", { href: "#/catalog?list=unseen" }, "See those that never were")),
    h("div", { class: "cards" },
      h("div", {}, h("h3", {}, "Share of what is shown"), diverging(tenths.map((tenth, place) => ({ label: name(place), value: impressions ? tenth.impressions / impressions : 0 })), (value) => percent(value))),
      h("div", {}, h("h3", {}, "Items that were ever shown"), diverging(tenths.map((tenth, place) => ({ label: name(place), value: tenth.items ? tenth.shown / tenth.items : 0 })), (value) => percent(value, 2)))),
  ];
}
