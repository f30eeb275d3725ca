// Options of recommendations as controls. A side holds what the controls show; bodyOf() makes the request of it.

import { field, fill, h, select } from "../../dom.js";
import { finder } from "../../finder.js";
import { fixed, short, titleOf } from "../../format.js";

export const newSide = () => ({ bundle: "", k: 10, scenario: "", exclude_seen: "", diversity: 0, diversity_by: "", exact: false, conditions: [], boosts: [], pins: [] });

const OPERATORS = {
  string: [["equals", "is"], ["not", "is not"], ["exists", "is set"]],
  number: [["max", "at most"], ["min", "at least"], ["equals", "is"], ["exists", "is set"]],
  boolean: [["equals", "is"]],
};

/** Return the options of a side as they are sent: only those that are set. */
export function bodyOf(side) {
  const body = { k: side.k };
  const filters = side.conditions.map(filterOf).filter(Boolean);
  if (side.scenario) body.scenario = side.scenario;
  if (side.exclude_seen) body.exclude_seen = { yes: true, no: false }[side.exclude_seen] ?? side.exclude_seen;
  if (filters.length) body.filter = filters.length === 1 ? filters[0] : { and: filters };
  if (side.diversity) body.diversity = side.diversity;
  if (side.diversity && side.diversity_by) body.diversity_by = side.diversity_by;
  if (side.exact) body.exact = true;
  const boosts = side.boosts.filter((boost) => filterOf(boost)).map((boost) => ({ filter: filterOf(boost), factor: boost.factor }));
  if (boosts.length) body.boost = boosts;
  if (side.pins.length) body.pin = side.pins.map(({ id, position }) => ({ id, position }));
  return body;
}

function filterOf({ attribute, operator, value, kind }) {
  if (operator === "exists") return { attribute, exists: true };
  if (value === "" || value === null) return null;
  const typed = kind === "number" ? Number(value) : kind === "boolean" ? value === "true" : value;
  if (operator === "not") return { not: { attribute, equals: typed } };
  return operator === "equals" ? { attribute, equals: typed } : { attribute, range: { [operator]: typed } };
}

/** Show the controls of a side in a node, and call `changed` after each change. `schema` maps attributes to {kind, values}; `bundles` are those that are not live. */
export function showOptions(node, side, { schema, scenarios, bundles, changed }) {
  const again = () => { showOptions(node, side, { schema, scenarios, bundles, changed }); changed(); };
  const set = (name) => (value) => { side[name] = value; changed(); };
  const names = Object.keys(schema);
  const share = h("output", {}, fixed(side.diversity, 1));
  const differIn = field("Differ in", select([["", "category, or vectors"], ...names.map((name) => [name, name])], side.diversity_by, set("diversity_by")));
  const setDiversity = (value) => { share.value = fixed(value, 1); differIn.hidden = value === 0; set("diversity")(value); };
  differIn.hidden = side.diversity === 0;
  fill(node,
    bundles.length > 0 && field("Bundle", select([["", "the live one"], ...bundles.map((bundle) => [bundle.bundle, `${bundle.model} ${short(bundle.bundle)}, ${bundle.state}`])], side.bundle, set("bundle"))),
    field("Items", h("input", { type: "number", min: 1, max: 100, value: side.k, onchange: (event) => set("k")(Math.min(100, Math.max(1, Number(event.target.value) || 10))) })),
    field("Scenario", select([["", "none"], ...scenarios.map((name) => [name, name])], side.scenario, set("scenario"))),
    field("Leave out what the session has", select(
      [["", "as the bundle says"], ["yes", "all items"], ["last", "the last item"], ["purchased", "purchased items"], ["no", "nothing"]], side.exclude_seen, set("exclude_seen"))),
    h("label", { class: "field" }, h("span", {}, "Diversity ", share),
      h("input", { type: "range", min: 0, max: 1, step: 0.1, value: side.diversity, oninput: (event) => setDiversity(Number(event.target.value)) })),
    differIn,
    names.length > 0 && group("Filters", "Add a filter", side.conditions, () => newCondition(schema), conditionRow, again, schema, changed),
    names.length > 0 && group("Boosts", "Add a boost", side.boosts, () => ({ ...newCondition(schema), factor: 2 }), boostRow, again, schema, changed),
    pins(side, again, changed),
    h("label", { class: "check" }, h("input", { type: "checkbox", ...(side.exact ? { checked: true } : {}), onchange: (event) => set("exact")(event.target.checked) }), "Exact search"));
}

function newCondition(schema) {
  const attribute = Object.keys(schema).find((name) => name === "category") ?? Object.keys(schema)[0];
  return conditionOn(attribute, schema);
}

function conditionOn(attribute, schema) {
  const { kind } = schema[attribute];
  return { attribute, kind, operator: OPERATORS[kind][0][0], value: kind === "boolean" ? "true" : "" };
}

function group(title, action, entries, make, row, again, schema, changed) {
  const remove = (entry) => { entries.splice(entries.indexOf(entry), 1); again(); };
  return h("div", { class: "conditions" },
    h("h3", {}, title, h("button", { class: "plain", type: "button", "aria-label": action, onclick: () => { entries.push(make()); again(); } }, "+ Add")),
    entries.map((entry) => row(entry, schema, again, changed, () => remove(entry))));
}

function conditionRow(condition, schema, again, changed, remove) {
  return h("div", { class: "condition" }, conditionControls(condition, schema, again, changed), removeButton(`Remove the filter on ${condition.attribute}`, remove));
}

function boostRow(boost, schema, again, changed, remove) {
  return h("div", { class: "condition" }, conditionControls(boost, schema, again, changed),
    h("input", { type: "number", class: "whole", min: 0.01, max: 100, step: "any", "aria-label": "Factor", title: "As if the encoder found these items so many times as likely", value: boost.factor, onchange: (event) => { boost.factor = Number(event.target.value) || 1; changed(); } }),
    removeButton(`Remove the boost of ${boost.attribute}`, remove));
}

function conditionControls(condition, schema, again, changed) {
  const { kind, values } = schema[condition.attribute] ?? { kind: condition.kind, values: [] };
  const set = (value) => { condition.value = value; changed(); };
  const listId = `values-${condition.attribute}`;
  return [
    select(Object.keys(schema).map((name) => [name, name]), condition.attribute, (name) => { Object.assign(condition, conditionOn(name, schema)); again(); }, { "aria-label": "Attribute" }),
    select(OPERATORS[kind], condition.operator, (operator) => { condition.operator = operator; again(); }, { "aria-label": "Comparison" }),
    condition.operator === "exists" ? null
      : kind === "boolean" ? select([["true", "true"], ["false", "false"]], condition.value, set, { class: "whole", "aria-label": "Value" })
      : h("input", { class: "whole", "aria-label": "Value", type: kind === "number" ? "number" : "text", step: "any", placeholder: "Value", list: kind === "string" ? listId : null, value: condition.value, onchange: (event) => set(event.target.value) }),
    kind === "string" && condition.operator !== "exists" ? h("datalist", { id: listId }, values.map((value) => h("option", { value }))) : null,
  ];
}

function pins(side, again, changed) {
  const free = () => { let position = 1; while (side.pins.some((pin) => pin.position === position)) position += 1; return position; };
  const choose = (item) => {
    if (!side.pins.some((pin) => pin.id === item.id)) side.pins.push({ id: item.id, title: titleOf(item), position: free() });
    again();
  };
  return h("div", { class: "conditions" }, h("h3", {}, "Pins"),
    side.pins.map((pin) => h("div", { class: "condition" },
      h("span", { class: "title" }, pin.title),
      h("input", { type: "number", min: 1, max: 100, "aria-label": `Position of ${pin.title}`, value: pin.position, onchange: (event) => { pin.position = Number(event.target.value) || 1; changed(); } }),
      removeButton(`Unpin ${pin.title}`, () => { side.pins.splice(side.pins.indexOf(pin), 1); again(); }))),
    finder({ label: "Pin an item", placeholder: "Pin an item …", choose }));
}

const removeButton = (label, onclick) => h("button", { class: "plain remove", type: "button", "aria-label": label, onclick }, "Remove");

/** Read the kinds and some values of attributes from items. Lists and texts compare alike. */
export function schemaOf(items) {
  const schema = {};
  for (const { attributes } of items) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null) continue;
      const [example, kind] = Array.isArray(value) ? [value[0], "string"] : [value, typeof value];
      schema[name] ??= { kind, values: [] };
      if (kind === "string" && example && !schema[name].values.includes(example) && schema[name].values.length < 50) schema[name].values.push(example);
    }
  }
  return schema;
}
