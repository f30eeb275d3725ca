/** Calls: sent again while that may help, until their deadline. */

import { NoAnswerError, ProblemError } from "./errors.js";
import type { Problem } from "./schemas.js";

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** Codes of refusals before anything was done. */
const NOT_DONE = ["too_many_requests", "overloaded", "not_ready"];
/** Codes of problems after which nobody knows whether the call was done; "" is that of a proxy. */
const UNCERTAIN = ["session_store_unavailable", ""];
const UNCERTAIN_STATUSES = [502, 503, 504];

export interface Call {
  method: "GET" | "POST";
  url: string;
  headers: Record<string, string>;
  body?: unknown;
  /** Whether doing it twice has the effect of doing it once. */
  isRepeatable: boolean;
  deadlineMs: number;
  /** Whether the call goes on when the page is left. */
  keepalive?: boolean;
}

/** What the service refused, and how long it asks to wait. */
interface Refusal {
  problem: Problem;
  retryAfterMs: number;
}

/** Make a call and return its result. Rejects with NoAnswerError or ProblemError. */
export async function send<Result>(call: Call): Promise<Result> {
  const ends = performance.now() + call.deadlineMs;
  for (let failed = 0; ; failed++) {
    let mayHelp: boolean;
    let askedMs = 0;
    let error: NoAnswerError | ProblemError;
    try {
      const answer = await attempt<Result>(call, Math.max(Math.ceil(ends - performance.now()), 1));
      if ("result" in answer) return answer.result;
      mayHelp = isPassing(answer.problem, call.isRepeatable);
      askedMs = answer.retryAfterMs;
      error = new ProblemError(answer.problem);
    } catch (cause) {
      mayHelp = call.isRepeatable; // fetch does not say whether the request was sent
      error = new NoAnswerError("no answer of the service", { cause });
    }
    const pauseMs = askedMs + Math.random() * Math.min(FIRST_PAUSE_MS * 2 ** failed, LONGEST_PAUSE_MS);
    if (!mayHelp || performance.now() + pauseMs >= ends) throw error;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function attempt<Result>(call: Call, timeoutMs: number): Promise<{ result: Result } | Refusal> {
  const headers = call.body === undefined ? call.headers : { ...call.headers, "Content-Type": "application/json" };
  const response = await fetch(call.url, {
    method: call.method,
    headers,
    body: call.body === undefined ? null : JSON.stringify(call.body),
    signal: AbortSignal.timeout(timeoutMs),
    keepalive: call.keepalive ?? false,
  });
  if (response.ok) return { result: (await response.json()) as Result };
  const problem = problemOf(await response.text(), response.status);
  return { problem, retryAfterMs: retryAfterMs(response.headers.get("Retry-After")) };
}

function problemOf(text: string, status: number): Problem {
  try {
    const problem = JSON.parse(text) as Partial<Problem> | null;
    if (problem?.status !== undefined && problem.code !== undefined && problem.detail !== undefined) {
      return problem as Problem;
    }
  } catch {
    // Not JSON: a proxy answered.
  }
  const detail = "The answer is not one of Onward: a proxy in front of it may have refused the request.";
  return { type: "about:blank", title: "", status, code: "", detail };
}

function isPassing(problem: Problem, isRepeatable: boolean): boolean {
  if (NOT_DONE.includes(problem.code) || (problem.code === "" && problem.status === 429)) return true;
  return isRepeatable && UNCERTAIN.includes(problem.code) && UNCERTAIN_STATUSES.includes(problem.status);
}

/** Return the milliseconds of a Retry-After header, which gives seconds or a date. */
function retryAfterMs(header: string | null): number {
  if (header === null) return 0;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Math.max(ms || 0, 0);
}
