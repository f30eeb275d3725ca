// The call that gives what is on the screen, in three languages.

import { ROOT } from "../../api.js";
import { fill, h } from "../../dom.js";
import { toast } from "../../dialog.js";

const LANGUAGES = { curl, Python: python, TypeScript: typescript };
const BY_CLIENTS = "v1/recommendations";

/** A card with the call of a body; returns the card and a function that shows another body. */
export function snippets() {
  let language = "curl", path = BY_CLIENTS, body = {};
  const text = h("pre", { tabindex: 0, "aria-label": "Call" });
  const tabs = h("div", { class: "segmented" });
  const copy = h("button", { type: "button", class: "plain end", onclick: async () => { await navigator.clipboard.writeText(text.textContent); toast("Copied"); } }, "Copy");
  function show() {
    fill(tabs, Object.keys(LANGUAGES).map((name) => h("button", { type: "button", "aria-pressed": String(name === language), onclick: () => { language = name; show(); } }, name)));
    fill(text, LANGUAGES[language](path, body));
  }
  const card = h("section", { class: "card", "aria-label": "Call it" }, h("header", {}, h("h2", {}, "Call it"), tabs, copy), h("div", { class: "body" }, text));
  return { card, show: (nextPath, nextBody) => { path = nextPath; body = nextBody; show(); } };
}

function curl(path, body) {
  const quoted = JSON.stringify(body, null, 1).replaceAll(/\n\s*/g, " ").replaceAll("'", "'\\''");
  return `curl -s ${urlOf(path)} \\\n  -H "X-API-Key: $KEY" -H "Content-Type: application/json" \\\n  -d '${quoted}'`;
}

function python(path, body) {
  const shown = `for item in answer["items"]:\n    print(item["rank"], item["id"], item["score"])`;
  if (path !== BY_CLIENTS) return `import os\n\nimport httpx\n\nanswer = httpx.post(\n    "${urlOf(path)}",\n    headers={"X-API-Key": os.environ["KEY"]},\n    json=${literal(body)},\n).raise_for_status().json()\n${shown}`;
  const options = Object.entries(body).map(([name, value]) => `${name}=${literal(value)}`).join(", ");
  return `import os\n\nfrom onward_client import Client\n\nwith Client("${server()}", key=os.environ.get("KEY")) as onward:\n    answer = onward.recommend(${options})\n${shown}`;
}

function typescript(path, body) {
  const content = JSON.stringify(body, null, 2);
  if (path !== BY_CLIENTS) return `const response = await fetch("${urlOf(path)}", {\n  method: "POST",\n  headers: { "X-API-Key": process.env.KEY!, "Content-Type": "application/json" },\n  body: JSON.stringify(${content.replaceAll("\n", "\n  ")}),\n});\nif (!response.ok) throw new Error(await response.text());\nconst { items } = await response.json();`;
  return `import { OnwardClient } from "onward-client";\n\nconst onward = new OnwardClient("${server()}", { key: process.env.KEY });\nconst answer = await onward.recommend(${content});\nfor (const item of answer.items) console.log(item.rank, item.id, item.score);`;
}

function urlOf(path) {
  return new URL(path, ROOT).href;
}

function server() {
  return ROOT.href.replace(/\/$/, "");
}

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${literal(part)}`).join(", ")}}`;
  return JSON.stringify(value);
}
