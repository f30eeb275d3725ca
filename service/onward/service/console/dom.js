// Elements without a framework: h("button", { class: "primary", onclick: save }, "Save").

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element. Names that begin with `on` are listeners, `style` is an object, other values are attributes. */
export function h(tag, attributes = {}, ...children) {
  return complete(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function s(tag, attributes = {}, ...children) {
  return complete(document.createElementNS(SVG, tag), attributes, children);
}

/** Put children in place of those that a node has. Null, undefined and false are left out. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function complete(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([property, setting]) => node.style.setProperty(property, setting));
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  return fill(node, children);
}

/** A form field under its label. The label is the field's accessible name. */
export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", {}, label, hint && h("small", {}, ` ${hint}`)), control);
}

/** A drop-down list of [value, text] pairs. */
export function select(options, value, onchange, attributes = {}) {
  const node = h("select", { ...attributes, onchange: () => onchange(node.value) },
    options.map(([key, text]) => h("option", { value: key }, text)));
  node.value = value;
  return node;
}

/** Call a function once no further call has come for a while. */
export function debounced(work, delay = 150) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), delay);
  };
}
