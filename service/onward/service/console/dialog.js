// Dialogs and messages.

import { Problem, key, setKey } from "./api.js";
import { field, h } from "./dom.js";

/** Open a modal dialog, and resolve with the values of its fields, or with null if it was cancelled. */
export function ask({ title, text, fields = [], action = "OK", danger = false }) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog" },
      h("h2", { id: "dialog-title" }, title),
      text && h("p", { class: "muted" }, text),
      fields,
      h("div", { class: "actions" },
        h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"),
        h("button", { class: danger ? "danger" : "primary", value: "done" }, action)));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "done" ? Object.fromEntries(new FormData(form)) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask for a key; return whether it was given or removed. */
export async function askForKey(scope) {
  const answer = await ask({
    title: "API key",
    text: scope
      ? `This page needs a key with the scope ${scope}. It stays in this tab and is sent to this service alone.`
      : "It stays in this tab and is sent to this service alone. Leave it empty to forget it.",
    fields: [field("Key", h("input", { name: "key", type: "password", autocomplete: "off", value: key() }))],
    action: "Use this key",
  });
  if (answer) setKey(answer.key.trim());
  return answer !== null;
}

/** A message in place of what could not be loaded, with what to do about it. */
export function problemBox(error, scope) {
  if (!(error instanceof Problem)) throw error;
  const needed = error.scope ?? scope;
  if (error.needsKey) {
    return h("div", { class: "empty", role: "alert" },
      h("strong", {}, needed ? `This needs a key with the scope “${needed}”` : "This needs a key"),
      h("p", {}, error.status === 401 ? "No key has been entered in this tab." : error.message),
      h("button", {
        class: "primary", type: "button",
        onclick: async () => { if (await askForKey(needed)) window.dispatchEvent(new Event("keychange")); },
      }, "Enter a key"));
  }
  return h("div", { class: "empty", role: "alert" },
    h("strong", {}, error.message),
    error.errors.map((fault) => h("p", {}, h("code", {}, fault.at), ` ${fault.message}`)));
}

/** Say for a moment what was done, with a button {text, run} that may undo it, or what failed ("error"). */
export function toast(text, action = null) {
  document.querySelector(".toast")?.remove();
  const note = h("div", { class: action === "error" ? "toast error" : "toast", role: "status" }, text,
    action?.run && h("button", { type: "button", onclick: () => { note.remove(); action.run(); } }, action.text));
  document.body.append(note);
  setTimeout(() => note.remove(), action ? 8000 : 4000);
}
