// Find an item by title, attribute or id: a text field with a list, for mouse and keyboard.

import { Problem, get, segment } from "./api.js";
import { debounced, fill, h } from "./dom.js";
import { detailsOf, titleOf } from "./format.js";

const FOUND = 12;
let count = 0; // makes ids of elements unique

/** A finder that hands each chosen item to `choose`. */
export function finder({ label, placeholder = "Title, attribute or id", choose }) {
  const id = `finder-${(count += 1)}`;
  let items = [], at = -1, latest = null;
  const list = h("div", { role: "listbox", id, "aria-label": "Items found", hidden: true });
  const input = h("input", {
    type: "search", role: "combobox", placeholder, "aria-label": label, "aria-controls": id, "aria-expanded": "false",
    "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false",
    oninput: debounced(search, 120), onkeydown: onKey, onblur: () => setTimeout(close, 150),
  });

  async function search() {
    latest?.abort();
    latest = new AbortController();
    const text = input.value.trim();
    if (!text) return close();
    let isIndexing = false;
    try {
      const found = await get("v1/items", { query: text, limit: FOUND }, { signal: latest.signal });
      items = found.items;
      isIndexing = found.degraded.includes("index");
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      if (!(error instanceof Problem)) throw error;
      return open(h("div", { class: "empty" }, error.message));
    }
    at = items.length ? 0 : -1;
    return open(items.length ? items.map(option) : h("div", { class: "empty" }, isIndexing ? "The texts are being indexed: try again in a moment, or give an id." : "No item matches."));
  }

  function option(item, index) {
    return h("div", {
      role: "option", id: `${id}-${index}`, "aria-selected": String(index === at),
      onmousedown: (event) => { event.preventDefault(); take(index); },
    }, titleOf(item), h("small", {}, h("code", {}, item.id), " · ", detailsOf(item)));
  }

  function open(content) {
    fill(list, content);
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark();
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function mark() {
    [...list.querySelectorAll("[role=option]")].forEach((node, index) => {
      node.setAttribute("aria-selected", String(index === at));
      if (index === at) node.scrollIntoView({ block: "nearest" });
    });
    if (at >= 0) input.setAttribute("aria-activedescendant", `${id}-${at}`);
  }

  function take(index) {
    input.value = "";
    close();
    choose(items[index]);
  }

  function onKey(event) {
    if (list.hidden) return;
    if (event.key === "ArrowDown") at = Math.min(at + 1, items.length - 1);
    else if (event.key === "ArrowUp") at = Math.max(at - 1, 0);
    else if (event.key === "Escape") return close();
    else if (event.key === "Enter" && at >= 0) { event.preventDefault(); return take(at); }
    else return;
    event.preventDefault();
    mark();
  }

  return h("div", { class: "finder" }, input, list);
}

/** Return an item by its id, or only the id if the catalog does not have it. */
export async function itemOf(id) {
  try {
    return await get(`v1/items/${segment(id)}`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return { id };
  }
}
