"""Stateful test: both stores of answers agree with a simple model, whatever is written, added, claimed and deleted."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from onward.bundle import RetrievedItems, Source
from onward.service.records import answer_log, answer_stores
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answer_stores import InMemoryAnswerStore, RedisAnswerStore
from onward.service.records.answers import Answer, AttributionClaim
from onward.service.redis_client import connect
from onward.service.sessions import InMemorySessionStore, RedisSessionStore, SessionStore, session_digest
from tests.service.records.answer_ids import ANSWER_IDS, new_answer_id, owner_of
from tests.service.records.catalogs import CATALOG, DIGEST, LetterBundles

TTL = timedelta(minutes=5)
MAX_ANSWERS, MAX_CLAIMS = 4, 3
T = TypeVar("T")
runs = count()

session_ids = st.sampled_from(["visitor", "user", None])


@dataclass
class Expected:
    """An answer that was served."""

    session_id: str | None
    pages: list[Answer]
    generation: str | None
    claims: set[AttributionClaim] = field(default_factory=set)


class Answers(RuleBasedStateMachine):
    """Runs the same operations on a store and on the model."""

    url: ClassVar[str | None]
    """URL of the server; None for the store in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.run_number = next(runs)
        self.now_s = 1_795_000_000.0
        self.sessions: SessionStore
        self.redis = None if self.url is None else connect(self.url, timedelta(seconds=5))
        if self.redis is None:
            memory = InMemoryAnswerStore(ttl=TTL, clock=lambda: self.now_s)
            self.sessions = InMemorySessionStore(length=5, ttl=TTL, answer_generation=memory.generation)
            self.log = AnswerLog(memory, LetterBundles(), ANSWER_IDS, ttl=TTL, clock=lambda: self.now_s)
        else:
            self.sessions = RedisSessionStore(self.redis, length=5, ttl=TTL, answer_ttl=TTL)
            store = RedisAnswerStore(self.redis, ttl=TTL)
            self.log = AnswerLog(store, LetterBundles(), ANSWER_IDS, ttl=TTL, clock=lambda: self.now_s)
        self.waiting: list[Expected] = []
        self.kept: list[Expected] = []
        """In the order in which they were written."""
        self.gone: list[Expected] = []
        self.touched_s: dict[str, float] = {}
        """When the time to live of a session's answers began, by owner."""

    def teardown(self) -> None:
        if self.redis is not None:
            self.run(self.redis.aclose())
        self.runner.close()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def name(self, session_id: str | None) -> str | None:
        """Return a session id of this run alone."""
        return None if session_id is None else f"{session_id}-{self.run_number}"

    def answer(self, answer_id: str, items: str, root_id: str | None = None) -> Answer:
        source: Source = "popular"
        columns = RetrievedItems(tuple(items), (0.5,) * len(items), (source,) * len(items), (None,) * len(items))
        return Answer(answer_id, int(self.now_s * 1000), DIGEST, columns, root_id=root_id)

    @rule(session_id=session_ids, items=st.sampled_from(["abc", "de", "", "az"]))
    def serve(self, session_id: str | None, items: str) -> None:
        generation: str | None = ""
        if name := self.name(session_id):
            generation = self.run(self.sessions.append(name, (), keeps_answer=True)).answer_generation
        answer_id = new_answer_id(name)
        self.waiting.append(Expected(session_id, [self.answer(answer_id, items)], generation))
        if name:
            self.touched_s[owner_of(answer_id)] = self.now_s

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        served = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert served.generation is not None
        name = self.name(served.session_id)
        self.log.add(served.pages[0], CATALOG, session_id=name, generation=served.generation)
        self.run(self.log.flush())
        if served in self.gone:
            return
        self.kept.append(served)
        self.touched_s[owner_of(served.pages[0].id)] = self.now_s
        of_session = [answer for answer in self.kept if answer.session_id == served.session_id]
        if served.session_id is not None and len(of_session) > MAX_ANSWERS:
            self.kept.remove(of_session[0])
            self.gone.append(of_session[0])

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), items=st.sampled_from(["fg", "h"]), lag=st.integers(0, 1))
    def add_page(self, data: st.DataObject, items: str, lag: int) -> None:
        served = data.draw(st.sampled_from(self.kept))
        expected_pages = len(served.pages) - lag
        page = self.answer(self.log.next_page_id(served.pages), items, served.pages[0].id)
        is_added = self.run(self.log.claim_next(served.pages[0].id, expected_pages, page, CATALOG))
        assert is_added == (lag == 0)
        if is_added:
            served.pages.append(page)
            self.touched_s[owner_of(page.id)] = self.now_s

    @precondition(lambda self: self.kept or self.gone)
    @rule(data=st.data())
    def attribute(self, data: st.DataObject) -> None:
        claims, expected = [], []
        for _ in range(data.draw(st.integers(1, 4))):
            served = data.draw(st.sampled_from([*self.kept, *self.gone]))
            page = data.draw(st.sampled_from(served.pages))
            claim = AttributionClaim(page.id, data.draw(st.sampled_from("abdfz")), data.draw(st.sampled_from("vp")))
            is_new = (
                served in self.kept
                and self.is_unexpired(page)
                and claim.item_id in page.items.item_ids
                and claim not in served.claims
                and len(served.claims) < MAX_CLAIMS
            )
            if is_new:
                served.claims.add(claim)
            claims.append(claim)
            expected.append(is_new)
        assert [origin is not None for origin in self.run(self.log.attribute(claims))] == expected

    @rule(session_id=st.sampled_from(["visitor", "user"]))
    def delete_session(self, session_id: str) -> None:
        name = self.name(session_id) or ""
        self.run(self.sessions.delete(name))
        self.run(self.log.forget(name))
        self.forget(session_digest(name))

    @rule(minutes=st.integers(1, 4))
    def pass_time(self, minutes: int) -> None:
        self.now_s += 60 * minutes
        for owner in [owner for owner, at_s in self.touched_s.items() if at_s + TTL.total_seconds() < self.now_s]:
            self.forget(owner)
            if self.redis is not None:  # whose clock stands still
                self.run(self.redis.execute([("DEL", f"onward:session:{{{owner}}}:served")]))

    def forget(self, owner: str) -> None:
        """Count all answers of a session as gone, also those that have a generation but are not written yet."""
        self.touched_s.pop(owner, None)
        answers = [answer for answer in (*self.kept, *self.waiting) if owner_of(answer.pages[0].id) == owner]
        self.gone += [answer for answer in answers if answer not in self.gone]
        self.kept = [answer for answer in self.kept if answer not in self.gone]

    @rule()
    def read_all(self) -> None:
        for served in (*self.kept, *self.gone):
            for page in served.pages:
                is_kept = served in self.kept and self.is_unexpired(served.pages[0])
                assert self.run(self.log.pages(page.id)) == (served.pages if is_kept else [])

    def is_unexpired(self, answer: Answer) -> bool:
        return answer.made_ms >= self.now_s * 1000 - TTL.total_seconds() * 1000


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_store_agrees_with_the_model(kind: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "MAX_READ_WAIT_S", -1.0)
    for name, value in (("MAX_ANSWERS", MAX_ANSWERS), ("MAX_CLAIMS", MAX_CLAIMS)):
        monkeypatch.setattr(answer_stores, name, value)
    machine = type("AnswersOfOneStore", (Answers,), {"url": valkey if kind == "redis" else None})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    )
