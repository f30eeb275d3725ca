// Playground: click items into a session, and see what comes next, why, and how options change it.

import { Problem, call, get, segment } from "../api.js";
import { diverging } from "../chart.js";
import { ask, problemBox, toast } from "../dialog.js";
import { debounced, field, fill, h } from "../dom.js";
import { finder, itemOf } from "../finder.js";
import { detailsOf, fixed, number, short, titleOf } from "../format.js";
import { bodyOf, newSide, schemaOf, showOptions } from "./playground/options.js";
import { difference, resultList, stages } from "./playground/results.js";
import { snippets } from "./playground/snippets.js";

export const title = "Playground";
export const scope = "recommend"; // what a key must be allowed to, for most of the page

const REASONS = {
  unknown_item: "The catalog does not have it.",
  deleted: "It was deleted from the catalog.",
  unavailable: "It is hidden: marked as not available.",
  no_vector: "It has no vector yet: name similar items, or wait for events.",
  excluded: "The request excludes it.",
  shown_before: "An earlier page of this answer has shown it.",
  disliked: "The visitor disliked it.",
  purchased: "The visitor has bought it, and purchased items are left out.",
  seen: "The session has it, and such items are left out.",
  diversity: "Diversity put others in its place.",
};

export default async function playground(page, parameters, signal) {
  const state = read(parameters);
  const popular = (await get("v1/items:popular", { k: 100 }, { signal })).items;
  const scenarios = await get("v1/scenarios", {}, { signal }).then((body) => body.scenarios.map(({ name }) => name), () => []);
  const bundles = await get("v1/bundles", {}, { signal }).then((body) => body.bundles.filter(({ state }) => state === "staged" || state === "retired"), () => []);
  const titles = new Map(popular.map((item) => [item.id, titleOf(item)]));
  const schema = schemaOf(popular);
  const events = h("div", { class: "body" });
  const results = h("div", { class: "sides", "aria-live": "polite" });
  const options = h("div", { class: "body" });
  const whyNot = h("div", { class: "conditions", "aria-live": "polite" });
  const mode = h("div", { class: "segmented", role: "group", "aria-label": "Compare" });
  const sideTabs = h("div", { class: "segmented end" });
  const code = snippets();
  let shown = 0, latest = null;

  const refresh = debounced(update, 60);
  const changed = () => { save(state); refresh(); };

  function view(item) {
    titles.set(item.id, titleOf(item));
    state.items.push(item.id);
    showEvents();
    changed();
  }

  function showEvents() {
    fill(events,
      finder({ label: "Add an item to the session", placeholder: "Find an item to click …", choose: view }),
      state.items.length === 0
        ? [h("p", { class: "muted" }, "Nothing clicked yet. Begin with a popular item:"),
          h("div", { class: "suggestions" }, popular.slice(0, 6).map((item) => h("button", { type: "button", onclick: () => view(item) }, titleOf(item), h("small", {}, ` ${detailsOf(item)}`))))]
        : h("ol", { class: "events", "aria-label": "Events of the session, oldest first" }, state.items.map((id, place) => h("li", {},
          h("span", { class: "number" }, place + 1),
          h("span", { class: "title", title: id }, titles.get(id) ?? id),
          h("button", { class: "plain", type: "button", "aria-label": `Remove ${titles.get(id) ?? id}`, onclick: () => { state.items.splice(place, 1); showEvents(); changed(); } }, "✕")))),
      h("div", { class: "row wrap" },
        h("button", { class: "plain", type: "button", onclick: loadSession }, "Load a visitor’s session"),
        state.items.length > 0 && h("button", { class: "plain", type: "button", onclick: () => { state.items = []; showEvents(); changed(); } }, "Clear")));
  }

  async function loadSession() {
    const answer = await ask({ title: "Load a visitor’s session", text: "Copies its events; the session itself is not changed.", fields: [field("Session id", h("input", { name: "id", required: true }))], action: "Load" });
    if (!answer) return;
    try {
      const session = await get(`v1/sessions/${segment(answer.id)}`);
      state.items = session.events.map((event) => event.item_id).slice(-100);
      await nameItems();
      showEvents();
      changed();
    } catch (error) {
      toast(error.message, "error");
    }
  }

  async function nameItems() {
    const unnamed = [...new Set(state.items)].filter((id) => !titles.has(id));
    for (const item of await Promise.all(unnamed.map(itemOf))) titles.set(item.id, titleOf(item));
  }

  function setMode(count) {
    state.sides = count === 1 ? [state.sides[0]] : [state.sides[0], structuredClone(state.sides[0])];
    state.active = count - 1;
    showControls();
    changed();
  }

  function showControls() {
    fill(mode, [[1, "One answer"], [2, "Compare"]].map(([count, text]) => h("button", { type: "button", "aria-pressed": String(state.sides.length === count), onclick: () => state.sides.length !== count && setMode(count) }, text)));
    sideTabs.hidden = state.sides.length === 1;
    fill(sideTabs, state.sides.length > 1 && state.sides.map((_, index) => h("button", { type: "button", "aria-pressed": String(index === state.active), "aria-label": `Options of ${"AB"[index]}`, onclick: () => { state.active = index; showControls(); code.show(pathOf(state.sides[state.active]), request(state, state.active)); } }, "AB"[index])));
    showOptions(options, state.sides[state.active], { schema, scenarios, bundles, changed });
  }

  async function update() {
    const turn = (shown += 1);
    code.show(pathOf(state.sides[state.active]), request(state, state.active));
    const answers = await Promise.all(state.sides.map((_, index) => answered(state, index, signal)));
    if (turn !== shown) return; // a later change has been asked for
    results.className = answers.length > 1 ? "sides two" : "sides";
    const [first, second] = answers;
    latest = answers[state.active].body;
    fill(results, answers.map((answer, index) => h("section", { class: "card", "aria-label": answers.length > 1 ? `Answer ${"AB"[index]}` : "Next items" },
      h("header", {}, h("h2", {}, heading(state, answers, index))),
      answer.problem ? problemBox(answer.problem, "recommend") : [
        answer.body.items.length ? resultList(answer.body, { titles, other: index === 1 && first.body, view }) : h("div", { class: "empty" }, "No item is eligible: loosen the filters."),
        notPinned(answer.body, titles), stages(answer.body, answer.headers, answer.ms)])));
    if (first.body && second?.body) results.prepend(h("div", { class: "whole" }, difference(first.body, second.body)));
  }

  async function explainMissing(item) {
    if (state.items.length === 0) return fill(whyNot, h("p", {}, "Add an item to the session first."));
    try {
      const { body: why } = await call("POST", `v1/items/${segment(item.id)}/explanation`, request(state, state.active), { signal });
      return fill(whyNot,
        h("p", {}, h("strong", {}, titleOf(item)), " ", h("code", {}, item.id)), h("p", {}, reasonOf(why, latest)),
        why.contributions?.length > 0 && [h("h3", {}, "What each event adds to its score"), diverging(why.contributions.map((part) => ({ label: titles.get(part.item_id) ?? part.item_id, value: part.contribution })))],
        h("a", { href: `#/catalog?id=${segment(item.id)}` }, "Open it in the catalog"));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return fill(whyNot, problemBox(error, "recommend"));
    }
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Playground"), h("p", {}, "Nothing here is stored or counted."), h("div", { class: "end" }, mode)),
    h("div", { class: "columns" },
      h("section", { class: "card", "aria-label": "Session" }, h("header", {}, h("h2", {}, "Session")), events),
      h("div", { class: "sides" }, results,
        h("section", { class: "card", "aria-label": "Why not" }, h("header", {}, h("h2", {}, "Why is an item not here?")),
          h("div", { class: "body" }, finder({ label: "Why is this item not here?", placeholder: "Find the item that you miss …", choose: explainMissing }), whyNot)),
        code.card),
      h("section", { class: "card options", "aria-label": "Options" }, h("header", {}, h("h2", {}, "Options"), sideTabs), options)));
  await nameItems();
  showEvents();
  showControls();
  await update();
}

/** The body of a request for one side, without what only the console needs. */
function request(state, index) {
  return { items: state.items, ...bodyOf(state.sides[index]) };
}

/** Where a side is asked: a bundle that is not live has a path of its own. */
const pathOf = (side) => (side.bundle ? `v1/bundles/${segment(side.bundle)}/recommendations` : "v1/recommendations");

async function answered(state, index, signal) {
  try {
    if (state.items.length > 0) return await call("POST", pathOf(state.sides[index]), { ...request(state, index), dry_run: true }, { signal });
    return await call("GET", `v1/items:popular?k=${state.sides[index].k}`, undefined, { signal });
  } catch (error) {
    if (error instanceof Problem) return { problem: error };
    throw error;
  }
}

function heading(state, answers, index) {
  const name = state.items.length > 0 ? "Next items" : "Popular items";
  const bundle = state.items.length > 0 && state.sides[index].bundle ? ` of ${short(state.sides[index].bundle)}` : "";
  return answers.length > 1 ? `${"AB"[index]} · ${name}${bundle}` : `${name}${bundle}`;
}

function notPinned(answer, titles) {
  const left = Object.entries(answer.not_pinned ?? {});
  return left.length > 0 && h("div", { class: "stages" }, left.map(([id, rule]) => h("span", {}, `${titles.get(id) ?? id} is not pinned: ${rule.replaceAll("_", " ")}`)));
}

/** Say in one line where an item is, or why it is not there. */
function reasonOf(why, answer) {
  const lowest = answer?.items.at(-1);
  if (why.reason === "shown") return `It is here, at rank ${why.rank}.`;
  if (why.reason === "filtered") return `The filter leaves it out${why.condition ? ` (${why.condition})` : ""}.`;
  if (why.reason === "outranked") return `It ranks ${number(why.rank)} with a score of ${fixed(why.score)}${lowest ? `; the last item shown has ${fixed(lowest.score)}` : ""}.`;
  if (why.reason === "pin") return `Pinned items took its place: ${why.pins.join(", ")}.`;
  return REASONS[why.reason] ?? why.reason;
}

/** Read the state from the address, so that a link shows the same. */
function read(parameters) {
  const empty = { items: [], sides: [newSide()], active: 0 };
  try {
    const stored = JSON.parse(parameters.get("s") ?? "{}");
    const sides = stored.sides?.map((side) => ({ ...newSide(), ...side }));
    return { ...empty, items: parameters.getAll("item"), ...stored, ...(sides ? { sides } : {}) };
  } catch {
    return empty; // the link was cut
  }
}

function save(state) {
  history.replaceState(null, "", `#/playground?s=${encodeURIComponent(JSON.stringify(state))}`);
}
