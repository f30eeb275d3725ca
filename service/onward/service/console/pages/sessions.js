// Sessions: what a visitor did, every answer that the visitor got, and whether it would be the same now.

import { Problem, call, get, segment } from "../api.js";
import { ask, problemBox, toast } from "../dialog.js";
import { fill, h } from "../dom.js";
import { itemOf } from "../finder.js";
import { ago, dateTime, number, plural, short, titleOf } from "../format.js";
import { table } from "../table.js";

export const title = "Sessions";
export const scope = "admin"; // what a key must be allowed to, for most of the page

const LISTED = 25;
const ANSWERS = 20;
const REPLAYS = {
  same: ["good", "same now", "Computed again, the answer is the same"],
  changed: ["warn", "other now", "Computed again, the answer differs: the catalog has changed since"],
  bundle_removed: ["", "bundle gone", "The bundle that gave it was removed"],
  not_repeatable: ["", "of its moment", "Popular items change all the time"],
};

export default async function sessions(page, parameters, signal) {
  const list = h("div"), detail = h("div", { class: "sides" });
  const id = h("input", { type: "search", "aria-label": "Session id", placeholder: "Session id, as your shop sends it", value: parameters.get("id") ?? "" });
  const titles = new Map();

  async function showList() {
    const found = [];
    let cursor;
    const more = async () => {
      const body = await get("v1/sessions", { limit: LISTED, cursor }, { signal });
      found.push(...body.sessions);
      cursor = body.next_cursor;
      await nameAll(found.map((session) => session.last_event?.item_id));
      fill(list, sessionTable(found, titles, (session) => open(session.key, "key")),
        cursor && h("div", { class: "more" }, h("button", { type: "button", onclick: more }, "Show more")));
    };
    await guarded(list, more);
  }

  async function open(name, by) {
    const set = by === "key" ? { key: name } : { id: name };
    history.replaceState(null, "", `#/sessions?${new URLSearchParams(set)}`);
    await guarded(detail, async () => {
      const session = await get(`v1/sessions/${segment(name)}/history`, { by, limit: ANSWERS, replay: true }, { signal });
      await nameAll([...session.events.map((event) => event.item_id), ...session.disliked, ...session.purchased, ...session.answers.flatMap((answer) => answer.items.slice(0, 5).map((item) => item.id))]);
      fill(detail, sessionDetail(session, by === "id" ? name : null, titles, forget));
    });
    if (matchMedia("(max-width: 1000px)").matches) detail.scrollIntoView();
  }

  async function nameAll(ids) {
    const unnamed = [...new Set(ids)].filter((one) => one && !titles.has(one));
    for (const item of await Promise.all(unnamed.map(itemOf))) titles.set(item.id, titleOf(item));
  }

  async function forget(session, name) {
    const answer = await ask({ title: "Forget this session?", text: "Its events, marks and answers are erased for good. Counts that name nobody stay.", action: "Forget", danger: true });
    if (!answer) return;
    try {
      await call("DELETE", name === null ? `v1/sessions/${segment(session.key)}?by=key` : `v1/sessions/${segment(name)}`);
      toast("Forgotten");
      fill(detail);
      await showList();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      toast(error.message, "error");
    }
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Sessions"), h("p", {}, "The store keeps no session ids: the list names sessions by a key.")),
    h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); if (id.value.trim()) open(id.value.trim(), "id"); } }, h("div", { class: "grow" }, id), h("button", { class: "primary" }, "Open")),
    h("div", { class: "list split even" }, h("section", { class: "card", "aria-label": "Sessions" }, list), detail));
  fill(detail, h("div", { class: "card" }, h("div", { class: "empty" }, "Open a session: its events, its answers, and whether they would be the same now.")));
  await showList();
  if (parameters.get("id")) await open(parameters.get("id"), "id");
  else if (parameters.get("key")) await open(parameters.get("key"), "key");
}

async function guarded(node, work) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    fill(node, h("div", { class: "card" }, error.code === "session_not_found" ? h("div", { class: "empty" }, h("strong", {}, "Nothing is stored of this session"), h("p", {}, "No event has come yet, or it ended or was forgotten.")) : problemBox(error, "admin")));
  }
}

function sessionTable(found, titles, open) {
  return table({
    label: "Sessions", rows: found, open, sort: "time", empty: "No session is stored now.",
    columns: [
      { name: "key", text: "Session", show: (session) => h("code", { title: session.key }, short(session.key)) },
      { name: "last", text: "Last event", show: (session) => session.last_event && [h("span", {}, titles.get(session.last_event.item_id)), h("span", { class: "sub" }, session.last_event.type)] },
      { name: "time", text: "When", show: (session) => ago(session.last_event?.timestamp), value: (session) => session.last_event?.timestamp },
      { name: "applied", text: "Events", number: true, show: (session) => number(session.applied), value: (session) => session.applied },
    ],
  });
}

function sessionDetail(session, name, titles, forget) {
  const ids = session.events.map((event) => event.item_id);
  const marks = [[session.purchased, "bought"], [session.disliked, "disliked"]].filter(([items]) => items.length);
  return [
    h("section", { class: "card", "aria-label": "Events" },
      h("header", {}, h("h2", {}, name ?? h("code", { title: session.key }, short(session.key))), h("small", {}, plural(session.events.length, "event")),
        h("div", { class: "end row" },
          ids.length > 0 && h("a", { class: "button", href: `#/playground?${new URLSearchParams(ids.slice(-50).map((one) => ["item", one]))}` }, "Try in playground"),
          h("button", { type: "button", class: "plain", onclick: () => forget(session, name) }, "Forget"))),
      h("div", { class: "body" },
        h("ol", { class: "timeline" }, [...session.events].reverse().map((event) => h("li", {}, itemLink(event.item_id, titles), " ", event.type !== "view" && h("span", { class: "badge accent" }, event.type), h("small", { title: dateTime(event.timestamp) }, ` ${ago(event.timestamp)}`)))),
        marks.map(([items, text]) => h("p", { class: "muted" }, `${text}: `, items.map((one, place) => [place > 0 && ", ", itemLink(one, titles)]))))),
    h("section", { class: "card", "aria-label": "Answers" }, h("header", {}, h("h2", {}, "Answers, newest first")),
      session.answers.length ? h("ol", { class: "answers" }, session.answers.map((answer) => pastAnswer(answer, titles))) : h("div", { class: "empty" }, "No answer is kept: they expire after SERVICE_ANSWER_TTL.")),
  ];
}

function pastAnswer(answer, titles) {
  const [tone, text, hint] = REPLAYS[answer.replay?.status] ?? ["", "", ""];
  const now = answer.replay?.items?.map((item) => item.id);
  return h("li", {},
    h("div", { class: "row wrap" }, h("span", { title: dateTime(answer.made) }, ago(answer.made)),
      answer.scenario && h("span", { class: "badge" }, answer.scenario), answer.variant && h("span", { class: "badge" }, `variant ${answer.variant}`),
      h("small", {}, `${plural(answer.items.length, "item")} after ${plural(answer.session.length, "event")}, bundle `, h("code", {}, short(answer.bundle))),
      text && h("span", { class: `badge ${tone} end`, title: hint }, text)),
    h("ol", { class: "shown" }, answer.items.slice(0, 5).map((item) => h("li", {}, itemLink(item.id, titles), now && !now.includes(item.id) && h("small", { class: "down" }, " not now")))),
    answer.items.length > 5 && h("small", {}, `and ${answer.items.length - 5} more`));
}

const itemLink = (id, titles) => h("a", { href: `#/catalog?id=${segment(id)}`, title: id }, titles.get(id) ?? id);
