// The frame around the pages: which page is shown, the live bundle, the key and the theme.

import { get, key } from "./api.js";
import { askForKey, problemBox } from "./dialog.js";
import { fill, h } from "./dom.js";
import { ago, compact, short } from "./format.js";

const PAGES = ["playground", "live", "catalog", "sessions", "releases", "data"];
const main = document.getElementById("main");
let leave = null; // ends the page that is shown: its timers and requests

/** The page and the parameters in the address, as in #/catalog?id=item-17. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: PAGES.includes(path) ? path : PAGES[0], parameters: new URLSearchParams(query) };
}

async function show() {
  const { name, parameters } = address();
  leave?.abort();
  leave = new AbortController();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const { default: page, title, scope } = await import(`./pages/${name}.js`);
  document.title = `${title} – Onward console`;
  const content = h("div", { class: `page ${name}` });
  fill(main, content);
  try {
    await page(content, parameters, leave.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    fill(content, h("h1", {}, title), problemBox(error, scope));
  }
}

async function showStatus() {
  document.getElementById("key").textContent = key() ? "Key ✓" : "Key";
  document.getElementById("key").title = key() ? "A key is used in this tab" : "Enter an API key";
  const link = document.getElementById("bundle");
  try {
    const version = await get("v1/version");
    link.hidden = !version.bundle;
    if (!version.bundle) return;
    link.title = `Live bundle ${version.bundle}, made ${ago(version.created)}`;
    fill(link, h("span", { class: "dot good" }), h("span", {}, `${version.model} `, h("code", {}, short(version.bundle))),
      h("small", {}, `${compact(version.items)} items · ${ago(version.created)}`));
  } catch {
    link.hidden = true; // the key has no scope for it
  }
}

function switchTheme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (isDark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("onward.theme", next);
}

document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("key").addEventListener("click", async () => {
  if (await askForKey()) window.dispatchEvent(new Event("keychange"));
});
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
window.addEventListener("keychange", () => { showStatus(); show(); });
window.addEventListener("hashchange", show);
window.addEventListener("releasechange", showStatus);
show();
showStatus();
