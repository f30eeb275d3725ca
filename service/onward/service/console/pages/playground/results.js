// The items of an answer: rank, score, what moved, and how much each event of the session adds.

import { fill, h, s } from "../../dom.js";
import { diverging } from "../../chart.js";
import { detailsOf, fixed, number, short, titleOf } from "../../format.js";

const SOURCES = {
  encoder: "The encoder ranks it for this session",
  similar: "Similar to the session's last item, which the encoder does not know",
  popular: "Popular: the session says too little",
  pinned: "Pinned to this position",
};

/** Show an answer as a list. `titles` names the session's items; `other` is the answer to compare with. */
export function resultList(answer, { titles, other, view }) {
  const explained = new Map((answer.explanation?.items ?? []).map((item) => [item.id, item]));
  const session = answer.explanation?.session ?? [];
  return h("ol", { class: "results" }, answer.items.map((item) =>
    row(item, { explained: explained.get(item.id), session, titles, move: other && moveOf(item, other), view })));
}

function row(item, { explained, session, titles, move, view }) {
  const detail = h("div", { class: "detail", hidden: true });
  const opener = h("button", { class: "open", type: "button", "aria-expanded": "false", title: "Why this item?", onclick: toggle },
    h("span", { class: "title" }, titleOf(item)), h("small", {}, h("code", {}, item.id), " · ", detailsOf(item)));
  function toggle() {
    detail.hidden = !detail.hidden;
    opener.setAttribute("aria-expanded", String(!detail.hidden));
    if (!detail.hidden) fill(detail, why(item, explained, titles));
  }
  return h("li", {},
    h("div", { class: move ? "item moved" : "item" },
      h("span", { class: "rank" }, item.rank),
      move && h("span", { class: `move ${move.direction}`, title: move.text }, move.sign),
      opener,
      item.source === "encoder" ? spark(explained?.contributions, session, titles) : h("span", { class: "badge", title: SOURCES[item.source] }, item.source),
      h("span", { class: "number score", title: "Score" }, item.source === "popular" ? number(item.score) : fixed(item.score)),
      view && h("button", { type: "button", class: "add", "aria-label": `Click ${titleOf(item)}`, title: "Click it, as a visitor would", onclick: () => view(item) }, "+")),
    detail);
}

function why(item, explained, titles) {
  if (!explained) return h("p", { class: "muted" }, SOURCES[item.source] ?? item.source, ".");
  const facts = [SOURCES[item.source]];
  if (explained.interest) facts.push(`interest ${explained.interest + 1} of the session found it`);
  if (explained.boost) facts.push(`boosts added ${fixed(explained.boost)} to its score`);
  if (explained.place_before_diversity) facts.push(`before diversity and pins it was at ${explained.place_before_diversity}`);
  return [
    h("p", { class: "muted" }, facts.join("; "), "."),
    explained.contributions?.length && [h("h3", {}, "How much lower it would score without each event"),
      diverging(explained.contributions.map((part) => ({ label: titles.get(part.item_id) ?? part.item_id, value: part.contribution })))],
    explained.content?.length && [h("h3", {}, "Its vector comes from its attributes: what each adds"),
      diverging(explained.content.map((part) => ({ label: part.attribute, value: part.contribution })))],
  ];
}

/** One column for each event, oldest first: above the line it adds to the score, below it takes away. */
function spark(contributions, session, titles) {
  if (!contributions?.length) return h("span");
  const first = Math.max(0, session.length - 12);
  const value = new Map(contributions.map((part) => [part.place, part.contribution]));
  const values = session.slice(first).map((_, place) => value.get(first + place) ?? 0);
  const most = Math.max(...values.map(Math.abs)) || 1;
  const best = values.indexOf(Math.max(...values));
  const text = `Click ${first + best + 1}, ${titles.get(session[first + best]) ?? session[first + best]}, brought it`;
  const width = 7, middle = 13;
  return h("span", { class: "spark", title: text },
    s("svg", { role: "img", "aria-label": text, width: values.length * width, height: 2 * middle },
      values.map((one, place) => {
        const length = Math.max(1.5, (Math.abs(one) / most) * (middle - 1));
        return s("rect", { x: place * width, y: one >= 0 ? middle - length : middle, width: width - 2, height: length, class: one < 0 ? "bar negative" : place === best ? "bar" : "bar quiet" });
      })),
    h("small", { "aria-hidden": "true" }, `click ${first + best + 1}`));
}

function moveOf(item, other) {
  const before = other.items.find(({ id }) => id === item.id);
  if (!before) return { direction: "up", sign: "new", text: "Not in A" };
  const by = before.rank - item.rank;
  if (by === 0) return { direction: "same", sign: "=", text: "At the same rank in A" };
  return { direction: by > 0 ? "up" : "down", sign: `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}`, text: `At rank ${before.rank} in A` };
}

/** One line on how two answers differ. */
export function difference(a, b) {
  const rankInA = new Map(a.items.map((item) => [item.id, item.rank]));
  const shared = b.items.filter((item) => rankInA.has(item.id));
  const moved = shared.filter((item) => rankInA.get(item.id) !== item.rank);
  const gone = a.items.filter((item) => !b.items.some(({ id }) => id === item.id));
  return h("p", { class: "muted" }, `${shared.length} of ${a.items.length} items are in both, ${moved.length} of them at another rank.`,
    gone.length > 0 && [" B lacks ", gone.slice(0, 5).map((item) => titleOf(item)).join(", "), gone.length > 5 && ` and ${gone.length - 5} more`, "."]);
}

/** Where the time went, by the Server-Timing header, and what the answer was computed from. */
export function stages(answer, headers, ms) {
  const timing = Object.fromEntries([...(headers.get("server-timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, value]) => [name, Number(value)]));
  const facts = [`${number(answer.filter?.eligible)} items eligible`, answer.filter?.strategy && `searched by ${answer.filter.strategy}`, `bundle ${short(answer.bundle)}`];
  return h("div", { class: "stages" },
    ["store", "retrieval", "total"].filter((name) => name in timing).map((name) => h("span", {}, `${name} ${fixed(timing[name], 1)} ms`)),
    h("span", {}, `round trip ${fixed(ms, 0)} ms`),
    facts.filter(Boolean).map((fact) => h("span", {}, fact)),
    answer.degraded?.length > 0 && h("span", { class: "down" }, `degraded: ${answer.degraded.join(", ")}`));
}
