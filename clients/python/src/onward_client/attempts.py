"""Attempts: whether and when a call is sent again, until its deadline; the same for sync and async clients."""

import json
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, cast

import httpx

from onward_client.calls import Call, Result
from onward_client.errors import NoAnswerError, ProblemError
from onward_client.schemas import Problem

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
NOT_DONE = frozenset({"too_many_requests", "overloaded", "not_ready"})
"""Codes of refusals before anything was done."""
UNCERTAIN = frozenset({"session_store_unavailable", "live_store_unavailable"})
"""Codes of problems after which nobody knows whether the call was done."""
UNCERTAIN_OF_PROXIES = (502, 503, 504)
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
UNREPEATABLE = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    content: bytes
    retry_after: str | None = None

    @property
    def problem(self) -> Problem:
        """The problem document; one in its place if another server than the service answered."""
        try:
            problem = json.loads(self.content)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and {"status", "code", "detail"} <= problem.keys():
            return cast(Problem, problem)
        detail = "The answer is not one of Onward: a proxy in front of it may have refused the request."
        return {"type": "about:blank", "title": "", "status": self.status, "code": "", "detail": detail}


Outcome = Answer | httpx.TransportError


class Attempts(Generic[Result]):
    """The attempts of one call, from its start to its deadline."""

    def __init__(self, call: Call[Result], deadline_s: float) -> None:
        self._call = call
        self._ends = time.monotonic() + deadline_s
        self._failed = 0

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(self._ends - time.monotonic(), 0.001)

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._ends

    def pause_s(self, outcome: Outcome) -> float | None:
        """Return how long to wait before the next attempt; None if the outcome of this one is final."""
        if not self._may_help(outcome):
            return None
        longest_s = min(FIRST_PAUSE_S * 2**self._failed, LONGEST_PAUSE_S)
        self._failed += 1
        asked_s = _seconds(outcome.retry_after) if isinstance(outcome, Answer) else 0.0
        pause_s = asked_s + random.uniform(0, longest_s)  # noqa: S311  # spreads callers, hides nothing
        return pause_s if pause_s < self._ends - time.monotonic() else None

    def result(self, outcome: Outcome) -> Result:
        """Return the body of a final outcome. Raises NoAnswerError, ProblemError."""
        if isinstance(outcome, httpx.TransportError):
            raise NoAnswerError(f"no answer: {outcome or type(outcome).__name__}") from outcome
        if outcome.status >= 300:
            raise ProblemError(outcome.problem)
        body: Any = json.loads(outcome.content) if outcome.content else None
        return cast(Result, body)

    def _may_help(self, outcome: Outcome) -> bool:
        """Return whether to send the call again."""
        if isinstance(outcome, httpx.TransportError):
            is_sent = not isinstance(outcome, NOT_SENT)
            return not isinstance(outcome, UNREPEATABLE) and (self._call.is_repeatable or not is_sent)
        if outcome.status < 429:
            return False
        code = outcome.problem["code"]
        if code in NOT_DONE or (not code and outcome.status == 429):
            return True
        is_uncertain = code in UNCERTAIN or (not code and outcome.status in UNCERTAIN_OF_PROXIES)
        return is_uncertain and self._call.is_repeatable


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header, which gives seconds or a date; 0 if it gives neither."""
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
