// Jobs of workers: what runs, how far it is, and new ones.

import { Problem, get } from "../../api.js";
import { fill, h } from "../../dom.js";

/** Show the jobs in a node, and keep them fresh until the page is left. */
export async function showJobs(node, signal) {
  try {
    const { jobs } = await get("v1/jobs", {}, { signal });
    fill(node, jobs.length > 0 && h("pre", {}, JSON.stringify(jobs, null, 1)));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
}
