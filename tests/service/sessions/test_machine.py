"""Stateful test: after random appends, merges, crashes, deletions and expiries a store agrees with a simple model."""

import asyncio
from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from onward.service.errors import SessionBehind
from onward.service.sessions import (
    Event,
    EventWeights,
    InMemorySessionStore,
    MergeResult,
    Position,
    RedisSessionStore,
    Session,
    SessionStore,
)
from tests.service.sessions.stores import append_to_all

LENGTH = 4
TTL = timedelta(minutes=1)
T = TypeVar("T")

session_ids = st.sampled_from(["visitor", "user", "other"])
sent_events = st.builds(
    lambda kind, item, ms, event_id: Event(item, kind, ms, event_id, EventWeights().of(kind)),
    st.sampled_from(["view", "purchase", "dislike", "impression"]),
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 20),
    st.none() | st.sampled_from(["1", "2", "3", "4"]),
)


@dataclass
class ExpectedSession:
    """What a session should hold."""

    generation: int = 0
    count: int = 0
    events: list[Event] = field(default_factory=list)
    event_ids: set[str] = field(default_factory=set)
    purchased_ms: dict[str, int] = field(default_factory=dict)
    hidden_ms: dict[str, int] = field(default_factory=dict)

    def apply(self, event: Event) -> bool:
        if event.event_id in self.event_ids:
            return False
        if event.event_id is not None:
            self.event_ids.add(event.event_id)
        self.count += 1
        if event.weight > 0:
            self.events = [*self.events, event._replace(event_id=None, weight=1.0)][-LENGTH:]
            self.hidden_ms.pop(event.item_id, None)
        if event.type == "purchase":
            self.purchased_ms[event.item_id] = event.timestamp_ms
        if event.weight < 0:
            self.hidden_ms[event.item_id] = event.timestamp_ms
        return True

    def take_over(self, other: "ExpectedSession") -> None:
        hidden: dict[str, int] = {}
        for marks_ms, events in ((self.hidden_ms, other.events), (other.hidden_ms, self.events)):
            for item, ms in marks_ms.items():
                if all(event.timestamp_ms <= ms for event in events if event.item_id == item):
                    hidden[item] = max(hidden.get(item, 0), ms)
        self.hidden_ms = hidden
        for item, ms in other.purchased_ms.items():
            self.purchased_ms[item] = max(self.purchased_ms.get(item, 0), ms)
        self.events = sorted([*self.events, *other.events], key=lambda event: event.timestamp_ms)[-LENGTH:]
        self.event_ids |= other.event_ids
        self.count += other.count


@dataclass
class UnfinishedMerge:
    """A session that a crashed merge has put aside."""

    target: str
    session: ExpectedSession
    is_applied: bool


class CrashError(Exception):
    """The process crashed during a merge."""


class CrashingStore(RedisSessionStore):
    """Crashes after a given step of a merge."""

    crash_after: str | None = None

    async def _put_aside(self, source: str, target: str, name: str) -> Any:
        move = await super()._put_aside(source, target, name)
        self._crash("put aside")
        return move

    async def _apply_move(self, move: Any) -> int:
        moved = await super()._apply_move(move)
        self._crash("applied")
        return moved

    def _crash(self, step: str) -> None:
        if self.crash_after == step:
            raise CrashError


class Sessions(RuleBasedStateMachine):
    """Runs the same operations on a store and on the model."""

    url: ClassVar[str | None]
    """URL of the server; None for the in-memory store."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now_s = 0.0
        self.redis: Redis | None = None
        self.store: SessionStore = InMemorySessionStore(length=LENGTH, ttl=TTL, clock=lambda: self.now_s)
        if self.url is not None:
            self.redis = Redis.from_url(self.url)
            self.run(self.redis.flushall())
            self.store = CrashingStore.connect(self.url, length=LENGTH, ttl=TTL, timeout=timedelta(seconds=5))
        self.generations = 0
        self.sessions: dict[str, ExpectedSession] = {}
        self.aside: dict[str, UnfinishedMerge] = {}
        self.tokens: list[tuple[str, str, int, int]] = []

    def teardown(self) -> None:
        self.run(self.store.close())
        if self.redis is not None:
            self.run(self.redis.aclose())
        self.runner.close()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    @rule(session_id=session_ids, events=st.lists(sent_events, max_size=6))
    def append(self, session_id: str, events: list[Event]) -> None:
        expected = self.expected(session_id)
        outcomes = [expected.apply(event) for event in events]
        session = self.run(self.store.append(session_id, events))
        assert list(session.outcomes) == outcomes
        self.check(session_id, session)

    @rule(first=st.lists(sent_events, min_size=1, max_size=3), second=st.lists(sent_events, min_size=1, max_size=3))
    def append_to_two(self, first: list[Event], second: list[Event]) -> None:
        sent = {"visitor": first, "user": second}
        outcomes = {name: [self.expected(name).apply(event) for event in events] for name, events in sent.items()}
        for name, session in self.run(append_to_all(self.store, sent)).items():
            assert isinstance(session, Session)
            assert list(session.outcomes) == outcomes[name]
            self.check(name, session)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def read_at_a_position(self, data: st.DataObject) -> None:
        session_id, token, generation, count = data.draw(st.sampled_from(self.tokens))
        expected = self.sessions.get(session_id, ExpectedSession())
        if expected.generation == generation and expected.count >= count:
            self.check(session_id, self.run(self.store.append(session_id, (), at_least=token)))
        else:
            with pytest.raises(SessionBehind):
                self.run(self.store.append(session_id, (), at_least=token))

    @rule(source=session_ids, into=session_ids)
    def merge(self, source: str, into: str) -> None:
        if source == into:
            return
        applied = self.finish_a_crashed_merge(source, into)
        if self.put_aside(source, into):
            applied += self.apply_move(source)
            del self.aside[source]
        merged = self.run(self.store.merge(source, into))
        assert merged == MergeResult(applied, self.read(into).position)
        self.read(source)

    @precondition(lambda self: self.redis is not None)
    @rule(source=session_ids, into=session_ids, step=st.sampled_from(["put aside", "applied"]))
    def merge_and_crash(self, source: str, into: str, step: str) -> None:
        assert isinstance(self.store, CrashingStore)
        if source == into or not (self.put_aside(source, into) or source in self.aside):
            return
        if step == "applied":
            self.apply_move(source)
        self.store.crash_after = step
        with pytest.raises(CrashError):
            self.run(self.store.merge(source, into))
        self.store.crash_after = None
        self.read(source)
        self.read(into)

    @rule(session_id=session_ids)
    def delete(self, session_id: str) -> None:
        self.run(self.store.delete(session_id))
        self.sessions.pop(session_id, None)
        self.aside.pop(session_id, None)
        for aside in self.aside.values():
            aside.is_applied &= aside.target != session_id
        self.read(session_id)

    @rule()
    def expire_all(self) -> None:
        self.now_s += TTL.total_seconds()
        if self.redis is not None:
            self.run(self.redis.flushall())
        self.sessions.clear()
        self.aside.clear()
        for session_id in ("visitor", "user", "other"):
            self.read(session_id)

    def expected(self, session_id: str) -> ExpectedSession:
        if session_id not in self.sessions:
            self.generations += 1
            self.sessions[session_id] = ExpectedSession(generation=self.generations)
        return self.sessions[session_id]

    def read(self, session_id: str) -> Session:
        session = self.run(self.store.append(session_id, ()))
        self.check(session_id, session)
        return session

    def check(self, session_id: str, session: Session) -> None:
        expected = self.sessions.get(session_id, ExpectedSession())
        assert session.events == expected.events
        assert session.item_ids == [event.item_id for event in expected.events if event.item_id not in session.hidden]
        assert session.purchased == expected.purchased_ms.keys()
        assert session.hidden == expected.hidden_ms.keys()
        assert Position.parse(session.position).number == expected.count
        if expected.count:
            self.tokens.append((session_id, session.position, expected.generation, expected.count))

    def put_aside(self, source: str, target: str) -> bool:
        expected = self.sessions.get(source)
        if source in self.aside or expected is None or expected.count == 0:
            return False
        self.aside[source] = UnfinishedMerge(target, deepcopy(expected), is_applied=False)
        self.generations += 1
        self.sessions[source] = ExpectedSession(generation=self.generations, event_ids=expected.event_ids)
        return True

    def apply_move(self, source: str) -> int:
        aside = self.aside[source]
        if not aside.is_applied:
            aside.session.event_ids |= self.sessions[source].event_ids if source in self.sessions else set()
            self.expected(aside.target).take_over(aside.session)
            aside.is_applied = True
        return len(aside.session.events)

    def finish_a_crashed_merge(self, source: str, target: str) -> int:
        if source not in self.aside:
            return 0
        moved = self.apply_move(source)
        return moved if self.aside.pop(source).target == target else 0


def test_a_store_agrees_with_the_model(kind: str, valkey: str) -> None:
    class OfThisKind(Sessions):
        url = valkey if kind == "redis" else None

    run_state_machine_as_test(
        OfThisKind,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
