// Jobs of workers: what runs, what it does now and what came of it; new ones, and cancelling one.

import { Problem, call, get, segment } from "../../api.js";
import { ask, problemBox, toast } from "../../dialog.js";
import { field, fill, h } from "../../dom.js";
import { ago, dateTime, short } from "../../format.js";
import { table } from "../../table.js";

const EVERY_MS = 3000;
const STATES = { waiting: "", running: "accent", done: "good", failed: "bad", cancelled: "" };
const isOpen = (job) => job.state === "waiting" || job.state === "running";

/** Show the jobs in a node, and keep them fresh until the page is left; `ended` is called when one has ended. */
export async function showJobs(node, signal, ended) {
  const list = h("div"), log = h("div");
  let open = new Set(), shown = "", logOf = null;

  async function update() {
    try {
      const { jobs } = await get("v1/jobs", { limit: 10 }, { signal });
      if (JSON.stringify(jobs) !== shown) fill(list, jobTable(jobs, { cancel, show }));
      shown = JSON.stringify(jobs);
      if ([...open].some((id) => jobs.some((job) => job.id === id && !isOpen(job)))) ended();
      open = new Set(jobs.filter(isOpen).map((job) => job.id));
      if (logOf && open.has(logOf)) await showLog();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      fill(list, error.code === "jobs_off" ? h("div", { class: "empty" }, error.message) : problemBox(error, "admin"));
    }
  }

  async function showLog() {
    const job = await get(`v1/jobs/${segment(logOf)}`, {}, { signal });
    fill(log, h("div", { class: "body" }, h("h3", {}, `Log of ${job.id}`), h("pre", { class: "log", tabindex: 0, "aria-label": "Log" }, job.log.join("\n") || "Nothing yet.")));
  }

  const show = (job) => { logOf = logOf === job.id ? null : job.id; if (logOf) showLog(); else fill(log); };
  const cancel = (job) => send(`v1/jobs/${segment(job.id)}:cancel`, undefined, "The job is being cancelled");

  async function start(kind) {
    const answer = await ask({
      title: kind === "rebuild" ? "Rebuild the index?" : "Fit to the newest events?",
      text: kind === "rebuild" ? "A worker takes the changes of the live catalog into a new bundle and makes it live." : "A worker trains on the newest events. The new bundle goes live if it passes the gate.",
      fields: [kind === "fit" && field("Budget", h("input", { name: "budget", placeholder: "2h", pattern: "[1-9][0-9]{0,3}[smhd]" }), "as in 30m or 2h"),
        kind === "rebuild" && h("label", { class: "check" }, h("input", { type: "checkbox", name: "staged" }), "Publish it staged, without making it live"),
        field("Reason", h("input", { name: "reason", maxlength: 500 }), "for the record")],
      action: "Start",
    });
    if (!answer) return;
    const options = { ...(answer.budget ? { budget: answer.budget } : {}), ...(answer.staged ? { staged: true } : {}), ...(answer.reason ? { reason: answer.reason } : {}) };
    await send("v1/jobs", { kind, ...options }, "The job waits for a worker (onward-training worker)");
  }

  async function send(path, body, done) {
    try {
      await call("POST", path, body);
      toast(done);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      toast(error.message, "error");
    }
    await update();
  }

  fill(node, h("section", { class: "card", "aria-label": "Jobs" },
    h("header", {}, h("h2", {}, "Jobs"), h("div", { class: "end row" },
      h("button", { type: "button", onclick: () => start("rebuild") }, "Rebuild index"), h("button", { type: "button", onclick: () => start("fit") }, "Fit now"))),
    list, log));
  await update();
  const timer = setInterval(() => { if (!document.hidden) update(); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function jobTable(jobs, { cancel, show }) {
  return table({
    label: "Jobs", rows: jobs, empty: "No job yet. A worker (onward-training worker) does what is started here or by a schedule.",
    columns: [
      { name: "kind", text: "Job", show: (job) => [h("span", {}, job.kind), h("span", { class: "sub" }, [job.by, job.reason].filter(Boolean).join(": "))] },
      { name: "state", text: "State", show: (job) => [h("span", { class: `badge ${STATES[job.state]}` }, job.cancelling && isOpen(job) ? "cancelling" : job.state), job.state === "running" && h("progress", { "aria-label": `${job.kind} is running` })] },
      { name: "step", text: "What it does, or what came of it", show: (job) => outcome(job) },
      { name: "when", text: "When", show: (job) => h("span", { title: dateTime(job.created) }, job.finished ? `ended ${ago(job.finished)}` : job.started ? `since ${ago(job.started)}` : `asked for ${ago(job.created)}`) },
      { name: "actions", text: "Actions", show: (job) => h("div", { class: "row" },
        h("button", { type: "button", class: "plain", "aria-label": `Log of ${job.id}`, onclick: () => show(job) }, "Log"),
        isOpen(job) && !job.cancelling && h("button", { type: "button", class: "plain", "aria-label": `Cancel ${job.id}`, onclick: () => cancel(job) }, "Cancel")) },
    ],
  });
}

function outcome(job) {
  if (job.error) return h("span", { class: "down" }, job.error);
  if (job.result) return ["bundle ", h("code", { title: job.result }, short(job.result))];
  return job.step ?? (job.state === "waiting" ? "waits for a worker" : "–");
}
