// Catalog: find a product, see what is known of it, hide, show, change or add it.

import { Problem, call, get, segment } from "../api.js";
import { ask, problemBox, toast } from "../dialog.js";
import { debounced, field, fill, h } from "../dom.js";
import { detailsOf, fixed, number, titleOf } from "../format.js";
import { table } from "../table.js";

export const title = "Catalog";
export const scope = "catalog"; // what a key must be allowed to, for most of the page

const PAGE = 50;
const LISTS = [["", "All"], ["changed", "Changed", "Changed or added since the bundle was built"], ["unseen", "Never shown", "May be shown, but no answer has shown them yet"]];
const VECTORS = {
  training: "learnt by training",
  content: "made of its attributes",
  similar_to: "mean of the items named as similar",
  seen_with: "mean of items seen with it",
  attributes: "mean of items that share its attributes",
};
const REASONS = { unavailable: "It is hidden: marked as not available.", no_vector: "It has no vector yet: name similar items, or wait for events." };

export default async function catalog(page, parameters, signal) {
  const state = { query: parameters.get("query") ?? "", list: parameters.get("list") ?? "", id: parameters.get("id") ?? "" };
  const list = h("div"), detail = h("aside", { class: "card detail", "aria-label": "Item", hidden: true });
  const search = h("input", { type: "search", "aria-label": "Find items", placeholder: "Title, attribute or id", value: state.query, oninput: debounced(() => { state.query = search.value; keep(); showList(); }) });
  const lists = h("div", { class: "segmented", role: "group", "aria-label": "Which items" });
  let request = null;

  function keep() {
    const set = Object.entries(state).filter(([, value]) => value);
    history.replaceState(null, "", `#/catalog?${new URLSearchParams(set)}`);
  }

  function showLists() {
    fill(lists, LISTS.map(([name, text, hint]) => h("button", { type: "button", title: hint, "aria-pressed": String(state.list === name), onclick: () => { state.list = name; keep(); showLists(); showList(); } }, text)));
    search.disabled = state.list === "unseen";
  }

  async function showList() {
    request?.abort();
    request = new AbortController();
    const { signal: current } = request;
    list.setAttribute("aria-busy", "true");
    try {
      const items = [];
      let cursor;
      const more = async (node) => {
        const path = state.list === "unseen" ? "v1/items:unseen" : "v1/items";
        const wanted = state.list === "unseen" ? {} : { query: state.query, changed: state.list === "changed" || null };
        const body = await get(path, { ...wanted, limit: PAGE, cursor }, { signal: current });
        items.push(...body.items);
        cursor = body.next_cursor;
        fill(node, itemTable(items, open, state), body.degraded?.includes("index") && h("p", { class: "empty" }, "The texts are being indexed: search again in a moment."),
          cursor && h("div", { class: "more" }, h("button", { type: "button", onclick: () => more(node) }, "Show more")));
      };
      await more(list);
      list.removeAttribute("aria-busy");
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      list.removeAttribute("aria-busy");
      fill(list, problemBox(error, "catalog"));
    }
  }

  async function open(item) {
    state.id = item.id;
    keep();
    detail.hidden = false;
    detail.parentNode.classList.add("split");
    try {
      const [full, similar] = await Promise.all([
        get(`v1/items/${segment(item.id)}`, {}, { signal }),
        get(`v1/items/${segment(item.id)}/similar`, { k: 8 }, { signal }).then((body) => body.items, () => []),
      ]);
      fill(detail, itemDetail(full, similar, { open, close, changed }));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      fill(detail, h("header", {}, h("h2", {}, item.id), closeButton(close)),
        error.code === "item_not_found" ? deletedItem(item.id, changed) : problemBox(error, "catalog"));
    }
    if (matchMedia("(max-width: 1000px)").matches) detail.scrollIntoView();
  }

  function close() {
    state.id = "";
    keep();
    detail.hidden = true;
    detail.parentNode.classList.remove("split");
  }

  async function changed(id, text, undo) {
    toast(text, undo && { text: "Undo", run: () => attempt(async () => { await undo(); await Promise.all([open({ id }), showList()]); }) });
    await Promise.all([open({ id }), showList()]);
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Catalog"),
      h("div", { class: "end" }, lists,
        h("button", { class: "primary", type: "button", onclick: async () => { const id = await addItem(); if (id) changed(id, "Added"); } }, "Add a product"))),
    search,
    h("div", { class: "list" }, h("section", { class: "card", "aria-label": "Items" }, list), detail));
  showLists();
  await showList();
  if (state.id) await open({ id: state.id });
}

function itemTable(items, open, state) {
  return table({
    label: "Items", rows: items, open,
    empty: state.list === "unseen" ? "Every item that may be shown has been shown." : state.query ? `No item has “${state.query}” in its id or texts.` : "No items.",
    columns: [
      { name: "item", text: "Item", show: (item) => [h("span", {}, titleOf(item)), h("span", { class: "sub" }, h("code", {}, item.id), " · ", detailsOf(item))], value: titleOf },
      { name: "state", text: "State", show: (item) => !item.recommendable && stateBadge(item), value: (item) => item.not_recommendable ?? "" },
      { name: "popularity", text: "Popularity", number: true, show: (item) => number(item.popularity), value: (item) => item.popularity, hint: "Weight of its events in the click log" },
    ],
  });
}

function stateBadge(item) {
  if (item.recommendable) return h("span", { class: "badge good" }, "shown");
  return h("span", { class: "badge warn", title: REASONS[item.not_recommendable] }, item.not_recommendable === "unavailable" ? "hidden" : "no vector");
}

function itemDetail(item, similar, { open, close, changed }) {
  const setAvailable = (available) => patch(item.id, { available });
  const toggle = () => attempt(async () => {
    await setAvailable(!item.available);
    await changed(item.id, item.available ? "Hidden: no answer shows it from now on" : "Shown again", () => setAvailable(item.available));
  });
  return [
    h("header", {}, h("h2", {}, titleOf(item)), stateBadge(item), closeButton(close)),
    h("div", { class: "body" },
      h("div", { class: "row wrap" },
        h("button", { type: "button", class: item.available ? null : "primary", onclick: toggle }, item.available ? "Hide" : "Show"),
        h("button", { type: "button", onclick: () => attempt(async () => { if (await editItem(item)) await changed(item.id, "Changed"); }) }, "Change"),
        h("a", { class: "button", href: `#/playground?item=${segment(item.id)}` }, "Try in playground"),
        h("button", { type: "button", class: "plain", onclick: () => attempt(async () => { if (await deleteItem(item)) await changed(item.id, "Deleted"); }) }, "Delete")),
      !item.recommendable && h("p", { class: "down" }, REASONS[item.not_recommendable] ?? item.not_recommendable),
      h("dl", { class: "facts" },
        h("dt", {}, "id"), h("dd", {}, h("code", {}, item.id)),
        Object.entries(item.attributes ?? {}).map(([name, value]) => [h("dt", {}, name), h("dd", {}, Array.isArray(value) ? value.join(", ") : value === null ? "–" : String(value))]),
        h("dt", {}, "popularity"), h("dd", {}, number(item.popularity)),
        h("dt", {}, "vector"), h("dd", {}, item.vector ? [VECTORS[item.vector.source] ?? item.vector.source, item.vector.neighbours && [": ", item.vector.neighbours.map((id) => [link(id, open), " "])]] : "none")),
      h("h3", {}, "Nearest by vector"),
      similar.length ? h("ol", { class: "similar" }, similar.map((other) => h("li", {}, link(other.id, open, titleOf(other)), h("small", {}, ` ${detailsOf(other)}`), h("span", { class: "number" }, fixed(other.score))))) : h("p", { class: "muted" }, "None.")),
  ];
}

const link = (id, open, text = id) => h("a", { href: `#/catalog?id=${segment(id)}`, onclick: (event) => { event.preventDefault(); open({ id }); } }, text);
const closeButton = (close) => h("button", { class: "plain end", type: "button", "aria-label": "Close", onclick: close }, "✕");

function deletedItem(id, changed) {
  return h("div", { class: "empty" }, h("strong", {}, "The catalog does not have it"), h("p", {}, "It was deleted, or never was there."),
    h("button", { type: "button", onclick: () => attempt(async () => { await patch(id, { available: true }); await changed(id, "Restored"); }) }, "Restore"));
}

const patch = (id, body) => call("PATCH", `v1/items/${segment(id)}`, body);

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    toast([error.message, ...error.errors.map((fault) => `${fault.at}: ${fault.message}`)].join(" "), "error");
  }
}

/** Ask for new values; return whether anything was changed. */
async function editItem(item) {
  const names = Object.keys(item.attributes ?? {}).filter((name) => name !== "available");
  const answer = await ask({
    title: `Change ${titleOf(item)}`,
    text: "It applies to all workers within a second, and outlasts new bundles until a rebuild takes it in.",
    fields: names.map((name) => field(name, h("input", { name, value: textOf(item.attributes[name]) }))),
    action: "Save",
  });
  if (!answer) return false;
  const attributes = Object.fromEntries(names.filter((name) => answer[name] !== textOf(item.attributes[name])).map((name) => [name, valueOf(answer[name], item.attributes[name])]));
  if (!Object.keys(attributes).length) return false;
  await patch(item.id, { attributes });
  return true;
}

async function deleteItem(item) {
  if (!await ask({ title: `Delete ${titleOf(item)}?`, text: "No answer shows it until it is restored. Sessions that hold it still work.", action: "Delete", danger: true })) return false;
  await call("DELETE", `v1/items/${segment(item.id)}`);
  return true;
}

/** Ask for a new item; return its id, or null. */
async function addItem() {
  const answer = await ask({
    title: "Add a product",
    text: "It is recommended at once: by the items that it is similar to, or by its attributes.",
    fields: [
      field("Id", h("input", { name: "id", required: true, maxlength: 128 })),
      field("Title", h("input", { name: "title" })),
      field("Other attributes", h("textarea", { name: "others", rows: 3, placeholder: '{"category": "Kitchen", "price": 15.0}' }), "as JSON"),
      field("Similar to", h("input", { name: "similar", placeholder: "item-17, item-20" }), "ids"),
    ],
    action: "Add",
  });
  if (!answer) return null;
  let added = null;
  await attempt(async () => {
    const attributes = { ...(answer.title ? { title: answer.title } : {}), ...parsed(answer.others) };
    const similar = answer.similar.split(",").map((id) => id.trim()).filter(Boolean);
    await patch(answer.id, { attributes, ...(similar.length ? { similar_to: similar } : {}) });
    added = answer.id;
  });
  return added;
}

function parsed(text) {
  try {
    return JSON.parse(text || "{}");
  } catch {
    throw new Problem(0, { detail: 'Other attributes are not JSON, as in {"price": 15.0}.' });
  }
}

const textOf = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value));

/** A text as the kind that the attribute had; empty is null. */
function valueOf(text, before) {
  if (text === "") return null;
  if (Array.isArray(before)) return text.split(",").map((part) => part.trim());
  if (typeof before === "number") return Number(text.replace(",", "."));
  return typeof before === "boolean" ? text === "true" : text;
}
