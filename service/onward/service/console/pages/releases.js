// Releases: bundles and what the gate measured of them, which one is live, jobs, and who changed what.

import { Problem, call, get, segment } from "../api.js";
import { lines } from "../chart.js";
import { ask, problemBox, toast } from "../dialog.js";
import { field, fill, h, s } from "../dom.js";
import { ago, compact, dateTime, fixed, number, short } from "../format.js";
import { table } from "../table.js";
import { showJobs } from "./releases/jobs.js";

export const title = "Releases";
export const scope = "admin"; // what a key must be allowed to, for most of the page

const STATES = { live: "good", staged: "accent", retired: "", removed: "" };
const IS_ACCURACY = /^(recall|mrr|ndcg|hit|precision)/;
const NAMES = { "gini@20": "concentration of what is shown (Gini)", "popularity_shown@20": "popularity of what is shown", popularity_next: "popularity of what came next" };

export default async function releases(page, parameters, signal) {
  const state = { a: parameters.get("a"), b: parameters.get("b") };
  const list = h("div"), comparison = h("div"), history = h("div"), jobs = h("div"), audit = h("div");
  const back = h("button", { type: "button", onclick: rollBack }, "Roll back");
  const both = h("a", { class: "button end", hidden: true }, "Compare their answers");
  let bundles = [], etag = null;

  async function load() {
    const answer = await call("GET", "v1/bundles", undefined, { signal });
    bundles = answer.body.bundles;
    etag = answer.headers.get("etag");
    const [first, ...others] = bundles.filter((bundle) => bundle.state !== "removed");
    if (!state.a && others.length) Object.assign(state, { a: first.bundle, b: (others.find((bundle) => bundle.gate_passed !== null) ?? others[0]).bundle });
    back.title = "Make the bundle live that was live before";
    back.disabled = !bundles.some((bundle) => bundle.state === "retired");
    fill(list, bundleTable(bundles, state, { pick, act }));
    await Promise.all([showComparison(), showHistory(), showAudit()]);
  }

  function pick(digest) {
    if (state.b === digest) state.b = null;
    else if (state.a === digest) Object.assign(state, { a: state.b, b: null });
    else Object.assign(state, state.a && state.b ? { a: state.b, b: digest } : state.a ? { b: digest } : { a: digest });
    const set = Object.entries(state).filter(([, value]) => value);
    window.history.replaceState(null, "", `#/releases?${new URLSearchParams(set)}`);
    fill(list, bundleTable(bundles, state, { pick, act }));
    showComparison();
  }

  async function showComparison() {
    const chosen = [state.a, state.b].filter(Boolean);
    const details = await Promise.all(chosen.map((digest) => get(`v1/bundles/${segment(digest)}`, {}, { signal })));
    const live = bundles.find((bundle) => bundle.state === "live")?.bundle;
    const answers = { items: [], sides: chosen.map((digest) => ({ bundle: digest === live ? "" : digest })), active: chosen.length - 1 };
    both.hidden = chosen.length < 2;
    both.href = `#/playground?s=${encodeURIComponent(JSON.stringify(answers))}`;
    fill(comparison, details.length ? sideBySide(details) : h("div", { class: "empty" }, "Tick two bundles above to compare them."));
  }

  async function showHistory() {
    const measured = bundles.filter((bundle) => bundle.gate_time).sort((a, b) => a.gate_time.localeCompare(b.gate_time)).slice(-20);
    const details = await Promise.all(measured.map((bundle) => get(`v1/bundles/${segment(bundle.bundle)}`, {}, { signal })));
    fill(history, details.length > 1 && qualityOverReleases(details));
  }

  async function showAudit() {
    try {
      fill(audit, auditTable((await get("v1/audit", { limit: 20 }, { signal })).changes));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      fill(audit, error.code === "audit_log_off" ? h("div", { class: "empty" }, "This deployment keeps no audit log (SERVICE_AUDIT_LOG).") : problemBox(error, "admin"));
    }
  }

  /** Make a change that another person's change in the meantime would stop; `done` says it, by default which is live. */
  async function change(path, body, done) {
    try {
      const { body: bundle } = await call("POST", path, body, { headers: etag ? { "If-Match": etag } : {} });
      toast(done ?? `${bundle.model} ${short(bundle.bundle)} is live`);
      window.dispatchEvent(new Event("releasechange"));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.code === "gate_not_passed") return force(path, body, done, error);
      toast(error.code === "precondition_failed" ? "Somebody has changed the releases in the meantime: look again." : error.message, "error");
    }
    return load();
  }

  async function force(path, body, done, error) {
    const answer = await ask({ title: "It has not passed the gate", text: `${error.message} Activated by force, it stays marked as such.`, fields: [reasonField(true)], action: "Activate all the same", danger: true });
    return answer && change(path, { ...body, reason: answer.reason, force: true }, done);
  }

  async function act(verb, bundle) {
    const name = `${bundle.model ?? "bundle"} ${short(bundle.bundle)}`;
    const questions = {
      activate: { title: `Make ${name} live?`, text: "It is loaded and checked first. All workers answer from it within about a second; rolling back takes as long.", action: "Activate" },
      protect: { title: `${bundle.protected ? "End the protection of" : "Protect"} ${name}?`, text: bundle.protected ? "It may be removed again." : "It will not be removed, by a person or by clearing up.", action: bundle.protected ? "End protection" : "Protect" },
      remove: { title: `Remove ${name}?`, text: "Its files are deleted for good. Its record stays.", action: "Remove", danger: true },
    };
    const answer = await ask({ ...questions[verb], fields: [reasonField(false)] });
    if (!answer) return;
    const body = { ...(answer.reason ? { reason: answer.reason } : {}), ...(verb === "protect" ? { protected: !bundle.protected } : {}) };
    await change(`v1/bundles/${segment(bundle.bundle)}:${verb}`, body, { protect: "Done", remove: `${name} is removed` }[verb]);
  }

  async function rollBack() {
    const answer = await ask({ title: "Roll back?", text: "The bundle that was live before goes live again, in all workers within about a second.", fields: [reasonField(false)], action: "Roll back", danger: true });
    if (answer) await change("v1/bundles:rollback", answer.reason ? { reason: answer.reason } : {});
  }

  fill(page,
    h("div", { class: "head" }, h("h1", {}, "Releases"), h("p", {}, "What answers come from, and what they could come from."), h("div", { class: "end" }, back)),
    h("section", { class: "card bundles", "aria-label": "Bundles" }, list),
    h("section", { class: "card", "aria-label": "Side by side" }, h("header", {}, h("h2", {}, "Side by side"), both), comparison),
    jobs, history,
    h("section", { class: "card", "aria-label": "Who changed what" }, h("header", {}, h("h2", {}, "Who changed what")), audit));
  try {
    await load();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    fill(page, h("h1", {}, "Releases"), problemBox(error, "admin"));
    return;
  }
  await showJobs(jobs, signal, load);
}

const reasonField = (required) => field("Reason", h("input", { name: "reason", maxlength: 500, required }), required ? "" : "for the record");

function bundleTable(bundles, state, { pick, act }) {
  return table({
    label: "Bundles", rows: bundles, empty: "No bundle has been published yet.",
    columns: [
      { name: "compare", text: "Compare", show: (bundle) => bundle.state !== "removed" && h("input", { type: "checkbox", "aria-label": `Compare ${short(bundle.bundle)}`, ...([state.a, state.b].includes(bundle.bundle) ? { checked: true } : {}), onchange: () => pick(bundle.bundle) }) },
      { name: "bundle", text: "Bundle", show: (bundle) => [h("span", {}, bundle.model ?? "–", " ", h("code", { title: bundle.bundle }, short(bundle.bundle))), h("span", { class: "sub" }, `made ${ago(bundle.created)}`)] },
      { name: "state", text: "State", show: (bundle) => h("span", { class: "row" }, h("span", { class: `badge ${STATES[bundle.state]}` }, bundle.state), bundle.protected && h("span", { class: "badge" }, "protected")) },
      { name: "gate", text: "Gate", show: gateBadge },
      { name: "live", text: "Live", show: (bundle) => (bundle.last_live ? h("span", { title: dateTime(bundle.last_live) }, `${bundle.state === "live" ? "since" : "last"} ${ago(bundle.last_live)}`) : "never") },
      { name: "items", text: "Items", number: true, show: (bundle) => number(bundle.items) },
      { name: "size", text: "Size", number: true, show: (bundle) => (bundle.size === null ? "–" : `${compact(bundle.size / 1e6)} MB`) },
      { name: "actions", text: "Actions", show: (bundle) => actions(bundle, act) },
    ],
  });
}

function gateBadge(bundle) {
  if (bundle.overridden) return h("span", { class: "badge warn", title: bundle.overridden }, "by force");
  if (bundle.gate_passed === null) return h("span", { class: "muted" }, "not measured");
  return h("span", { class: `badge ${bundle.gate_passed ? "good" : "bad"}` }, bundle.gate_passed ? "passed" : "not passed");
}

function actions(bundle, act) {
  if (bundle.state === "removed") return null;
  const name = short(bundle.bundle);
  const button = (verb, text) => h("button", { type: "button", class: verb === "activate" ? null : "plain", "aria-label": `${text} ${name}`, onclick: () => act(verb, bundle) }, text);
  return h("div", { class: "row" }, bundle.state !== "live" && button("activate", "Activate"), button("protect", bundle.protected ? "Unprotect" : "Protect"), bundle.state !== "live" && !bundle.protected && button("remove", "Remove"));
}

/** What the gate measured of one or two bundles, and what has happened to them. */
function sideBySide(details) {
  const figures = details.map(figuresOf);
  const names = [...new Set(figures.flatMap((of) => Object.keys(of)))];
  const sameData = new Set(details.map((bundle) => bundle.gate?.data_fingerprint)).size === 1;
  return h("div", { class: "body" },
    names.length > 0 && h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Figures side by side" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "On held-out sessions"), details.map((bundle) => h("th", { scope: "col", class: "number" }, `${bundle.model} ${short(bundle.bundle)}`, bundle.state === "live" ? " (live)" : "")), details.length > 1 && [h("th", { scope: "col", class: "number" }, "Difference"), h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Difference as a bar"))])),
      h("tbody", {}, names.map((name) => figureRow(name, figures.map((of) => of[name] ?? null)))))),
    names.length > 0 && details.length > 1 && !sameData && h("p", { class: "muted" }, "They were measured on different sessions: differences also show what has changed in the data."),
    names.length === 0 && h("p", { class: "muted" }, "The gate has not measured them: onward-training gate does."),
    h("div", { class: "cards" }, details.map(bundleCard)));
}

/** The figures of a bundle by name: accuracy, then how concentrated its answers are. */
function figuresOf({ gate }) {
  return gate ? { ...gate.figures.bundle, ...gate.concentration.bundle } : {};
}

function figureRow(name, values) {
  const [a, b] = values, difference = values.length > 1 && a !== null && b !== null ? b - a : null;
  const relative = difference === null || !a ? 0 : Math.max(-1, Math.min(1, difference / Math.abs(a) / 0.25)); // a quarter more fills the bar
  const tone = !difference || !IS_ACCURACY.test(name) ? "same" : difference > 0 ? "up" : "down";
  return h("tr", {}, h("th", { scope: "row" }, NAMES[name] ?? name), values.map((value) => h("td", { class: "number" }, fixed(value, 4))),
    values.length > 1 && [
      h("td", { class: `number ${tone}` }, difference === null ? "–" : `${difference > 0 ? "+" : ""}${fixed(difference, 4)}`),
      h("td", {}, s("svg", { class: "whisker", "aria-hidden": "true" }, s("rect", { x: `${50 + Math.min(0, relative) * 50}%`, y: 3, height: 10, rx: 1, width: `${Math.abs(relative) * 50}%`, class: { up: "bar", down: "bar negative", same: "bar quiet" }[tone] })))]);
}

function bundleCard(bundle) {
  return h("div", { class: "release" },
    h("h3", {}, `${bundle.model ?? "bundle"} `, h("code", {}, short(bundle.bundle)), ` · ${bundle.state}`),
    bundle.gate && h("p", { class: "muted" }, `Gate of ${dateTime(bundle.gate.created)}: ${number(bundle.gate.sessions)} sessions, ${number(bundle.gate.examples)} targets.`),
    bundle.gate && comparisons(bundle.gate.comparisons),
    bundle.gate?.rules?.length > 0 && rules(bundle.gate.rules),
    h("ol", { class: "timeline" }, [...bundle.events].reverse().slice(0, 8).map((event) => h("li", {}, h("span", {}, event.what), h("small", {}, ` ${dateTime(event.time)}${event.by ? ` by ${event.by}` : ""}`), event.reason && h("p", { class: "muted" }, `“${event.reason}”`), event.overridden && h("p", { class: "down" }, `by force: ${event.overridden}`)))));
}

/** All other rules of the gate, with what is asked for. */
function rules(found) {
  const bounds = (rule) => [rule.low !== null && `at least ${number(rule.low)}`, rule.high !== null && `at most ${number(rule.high)}`].filter(Boolean).join(", ");
  return h("table", { class: "rules" }, h("tbody", {}, found.map((rule) => h("tr", {}, h("th", { scope: "row" }, rule.name.replaceAll("_", " ")),
    h("td", {}, verdict(rule), number(rule.figure), h("small", {}, ` ${bounds(rule)}`))))));
}

const verdict = (rule) => h("span", { class: `dot ${rule.passed ? "good" : "bad"}`, role: "img", "aria-label": rule.passed ? "passed" : "not passed" });

/** Comparisons of the gate: a row for each reference, a column for each metric. */
function comparisons(found) {
  const metrics = [...new Set(found.map((rule) => rule.metric))], references = [...new Set(found.map((rule) => rule.reference))];
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Comparisons of the gate" }, h("table", { class: "rules" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "against"), metrics.map((metric) => h("th", { scope: "col" }, `${metric}, 95 % interval`)))),
    h("tbody", {}, references.map((reference) => h("tr", {}, h("th", { scope: "row" }, reference), metrics.map((metric) => {
      const rule = found.find((one) => one.metric === metric && one.reference === reference);
      return h("td", {}, rule && [verdict(rule), signed(rule.difference), h("small", {}, ` ${signed(rule.low)} … ${signed(rule.high)}`)]);
    }))))));
}

const signed = (value) => `${value > 0 ? "+" : ""}${fixed(value, 3)}`;

function qualityOverReleases(details) {
  const names = Object.keys(details.at(-1).gate.figures.bundle).slice(0, 3);
  return h("section", { class: "card", "aria-label": "Quality over releases" }, h("header", {}, h("h2", {}, "Quality over releases")),
    lines({ times: details.map(({ gate }) => gate.created), label: "Figures of the gate over releases", format: (value) => fixed(value, 3), timeFormat: (time) => dateTime(time), series: names.map((name) => ({ name, values: details.map(({ gate }) => gate.figures.bundle[name] ?? null) })) }));
}

function auditTable(changes) {
  return table({
    label: "Changes", rows: changes, empty: "Nothing has been changed yet.",
    columns: [
      { name: "time", text: "When", show: (change) => h("span", { title: change.time }, ago(change.time)) },
      { name: "what", text: "What", show: (change) => change.what },
      { name: "id", text: "Of", show: (change) => h("code", { title: change.id }, (change.id ?? "").length > 24 ? `${change.id.slice(0, 12)}…` : change.id) },
      { name: "who", text: "Who", show: (change) => change.key ?? change.user ?? change.address ?? "–" },
      { name: "reason", text: "Reason", show: (change) => change.after?.reason ?? "" },
    ],
  });
}
