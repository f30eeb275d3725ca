import type { Problem } from "./schemas.js";

/** A call that failed; show something else in place of recommendations. */
export class OnwardError extends Error {}

/** The service could not be reached, or did not answer within the deadline; `cause` says why. */
export class NoAnswerError extends OnwardError {}

/** The service refused the call. */
export class ProblemError extends OnwardError {
  readonly status: number;
  /** The kind of problem, as in the table of errors of the API's documentation. */
  readonly code: string;

  constructor(readonly problem: Problem) {
    super(`${problem.status} ${problem.code}: ${problem.detail}`);
    this.status = problem.status;
    this.code = problem.code;
  }
}
