// Tables that can be sorted by their columns.

import { h } from "./dom.js";

/**
 * Make a table of rows.
 *
 * `columns` are {name, text, show, value, number, hint}: `show` makes a cell's content of a row, `value` what to sort by.
 * `sort` names the column that is sorted by at first, largest first; `open` is called with a row that is chosen.
 */
export function table({ columns, rows, sort, open, label, empty = "Nothing here." }) {
  let by = columns.find((column) => column.name === sort), isDown = true;
  const body = h("tbody"), head = h("tr");
  const node = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, h("table", {}, h("thead", {}, head), body));

  function fillBody() {
    const sorted = by ? [...rows].sort((a, b) => compare(by.value(a), by.value(b)) * (isDown ? -1 : 1)) : rows;
    body.replaceChildren(...sorted.map((row) => h("tr", open ? { tabindex: 0, onclick: () => open(row), onkeydown: (event) => event.key === "Enter" && open(row) } : {},
      columns.map((column) => h("td", { class: column.number ? "number" : null }, column.show(row))))));
    if (!rows.length) body.append(h("tr", {}, h("td", { colspan: columns.length }, h("div", { class: "empty" }, empty))));
    head.replaceChildren(...columns.map((column) => h("th", {
      scope: "col", class: column.number ? "number" : null, title: column.hint, "aria-sort": column === by ? (isDown ? "descending" : "ascending") : null,
    }, column.value ? h("button", { type: "button", onclick: () => { isDown = column === by ? !isDown : true; by = column; fillBody(); } }, column.text, column === by && (isDown ? " ↓" : " ↑")) : column.text)));
  }

  fillBody();
  return node;
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}
