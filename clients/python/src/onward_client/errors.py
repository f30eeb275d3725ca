"""What a call may raise."""

from collections.abc import Sequence

from onward_client.schemas import Fault, Problem


class OnwardError(Exception):
    """A call that failed; show something else in place of recommendations."""


class NoAnswerError(OnwardError):
    """The service could not be reached, or did not answer within the deadline; `__cause__` says why."""


class ProblemError(OnwardError):
    """The service refused the call."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem['status']} {problem['code']}: {problem['detail']}")
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem["status"]

    @property
    def code(self) -> str:
        """The kind of problem, as in the table of errors of the API's documentation."""
        return self.problem["code"]

    @property
    def request_id(self) -> str | None:
        """The id under which the service's log mentions the request."""
        return self.problem.get("request_id")

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong in an invalid request, with its place."""
        return self.problem.get("errors") or ()
