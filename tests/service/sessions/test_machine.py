"""Stateful test: whatever is done to a store in Redis and to one in memory, they return the same."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from onward.service.sessions import (
    Event,
    EventWeights,
    InMemorySessionStore,
    MergeResult,
    Position,
    RedisSessionStore,
    Session,
    SessionAppend,
)
from onward.service.sessions.memory import _StoredSession

LENGTH = 4
REMEMBERED = 2
TTL = timedelta(hours=1)
STEPS = [timedelta(minutes=25), timedelta(minutes=50), TTL]
"""Times that pass; no sum of them comes close to TTL but TTL itself."""
SHORTEN_TTLS = """
for _, key in ipairs(redis.call("KEYS", "*")) do
  redis.call("PEXPIRE", key, redis.call("PTTL", key) - ARGV[1])
end
"""
Step = Literal["put aside", "applied"]
T = TypeVar("T")

session_ids = st.sampled_from(["visitor", "user", "other"])
sent_events = st.builds(
    lambda kind, item, ms, event_id: Event(item, kind, ms, event_id, EventWeights().of(kind)),
    st.sampled_from(["view", "purchase", "dislike", "impression"]),
    st.sampled_from(["a", "b c", "c ", "d\u2028e", "e:p:h:"]),  # in this order in every locale, for the oldest of marks
    st.integers(1, 20),
    st.sampled_from([None, "1", "2", "3", "4 5"]),
)


class CrashError(BaseException):
    """The process crashed during a merge."""


class CrashingRedisStore(RedisSessionStore):
    """Crashes after a given step of a merge."""

    crash_after: Step | None = None

    async def _put_aside(self, source: str, target: str, name: str) -> Any:
        move = await super()._put_aside(source, target, name)
        self._crash("put aside")
        return move

    async def _apply_move(self, move: Any) -> int:
        moved = await super()._apply_move(move)
        self._crash("applied")
        return moved

    def _crash(self, step: Step) -> None:
        if self.crash_after == step:
            raise CrashError


@dataclass
class UnfinishedMerge:
    """A session that a crashed merge has put aside."""

    target: str
    session: _StoredSession
    expires_s: float
    is_applied: bool = False


class CrashingInMemoryStore(InMemorySessionStore):
    """Can leave a merge unfinished, as the store in Redis can, where a merge is not one step."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        super().__init__(length=LENGTH, ttl=TTL, clock=clock)
        self._aside: dict[str, UnfinishedMerge] = {}

    async def merge(self, source: str, target: str) -> MergeResult:
        """Finish an earlier merge first."""
        applied = 0
        if self._is_aside(source):
            moved = self._apply(source)
            applied = moved if self._aside.pop(source).target == target else 0
        merged = await super().merge(source, target)
        return MergeResult(applied + merged.applied, merged.position)

    async def delete(self, session_id: str) -> None:
        """Delete what is put aside, too; a move into the session is no longer known to be applied."""
        await super().delete(session_id)
        self._aside.pop(session_id, None)
        for aside in self._aside.values():
            aside.is_applied &= aside.target != session_id

    def merge_and_crash(self, source: str, target: str, after: Step) -> bool:
        """Merge up to a step; return False if there is nothing to merge."""
        if not self._is_aside(source):
            stored = self._sessions.get(source)
            if stored is None or stored.at.number == 0:
                return False
            self._aside[source] = UnfinishedMerge(target, stored, self._clock() + self._ttl_s)
            self._sessions[source] = stored.emptied()
        if after == "applied":
            self._apply(source)
        return True

    def _is_aside(self, source: str) -> bool:
        self._evict_expired()
        return source in self._aside and self._aside[source].expires_s > self._clock()

    def _apply(self, source: str) -> int:
        aside = self._aside[source]
        if not aside.is_applied:
            aside.session.event_ids = self._sessions[source].event_ids if source in self._sessions else {}
            target = self._sessions.get(aside.target) or _StoredSession(self.length)
            target.take_over(aside.session)
            self._keep(aside.target, target)
            aside.is_applied = True
        return len(aside.session.events)


class Sessions(RuleBasedStateMachine):
    """Does the same to both stores."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now_s = 0.0
        self.in_memory = CrashingInMemoryStore(clock=lambda: self.now_s)
        self.in_redis = CrashingRedisStore.connect(self.url, length=LENGTH, ttl=TTL, timeout=timedelta(seconds=5))
        self.redis = Redis.from_url(self.url)
        self.run(self.redis.flushall())
        self.generations: set[tuple[str, str, str]] = set()
        self.tokens: list[tuple[str, str, str]] = []

    def teardown(self) -> None:
        self.run(self.in_redis.close())
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(session_id=session_ids, events=st.lists(sent_events, max_size=6))
    def append(self, session_id: str, events: list[Event]) -> None:
        self.append_all([SessionAppend(session_id, events)])

    @rule(appends=st.lists(st.tuples(session_ids, st.lists(sent_events, max_size=3)), max_size=4))
    def append_to_several(self, appends: list[tuple[str, list[Event]]]) -> None:
        self.append_all([SessionAppend(*append) for append in appends])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), events=st.lists(sent_events, max_size=2))
    def append_at_a_position(self, data: st.DataObject, events: list[Event]) -> None:
        session_id, in_memory, in_redis = data.draw(st.sampled_from(self.tokens))
        self.append_all([SessionAppend(session_id, events, in_memory)], [SessionAppend(session_id, events, in_redis)])

    @rule(session_id=session_ids, token=st.sampled_from(["0-0", "x-0", "0-1", "ended-1"]))
    def read_at_a_position_of_no_session(self, session_id: str, token: str) -> None:
        self.append_all([SessionAppend(session_id, (), token)])

    @rule(source=session_ids, into=session_ids)
    def merge(self, source: str, into: str) -> None:
        if source == into:
            return
        in_memory, in_redis = (self.run(store.merge(source, into)) for store in (self.in_memory, self.in_redis))
        assert in_memory.applied == in_redis.applied
        self.check_position(into, in_memory.position, in_redis.position)
        self.read_all()

    @rule(source=session_ids, into=session_ids, step=st.sampled_from(["put aside", "applied"]))
    def merge_and_crash(self, source: str, into: str, step: Step) -> None:
        if source == into or not self.in_memory.merge_and_crash(source, into, step):
            return
        self.in_redis.crash_after = step
        with pytest.raises(CrashError):
            self.run(self.in_redis.merge(source, into))
        self.in_redis.crash_after = None
        self.read_all()

    @rule(session_id=session_ids)
    def delete(self, session_id: str) -> None:
        for store in (self.in_memory, self.in_redis):
            self.run(store.delete(session_id))
        self.read_all()

    @rule(step=st.sampled_from(STEPS))
    def pass_time(self, step: timedelta) -> None:
        self.now_s += step.total_seconds()
        self.run(self.redis.eval(SHORTEN_TTLS, 0, int(step / timedelta(milliseconds=1))))
        self.read_all()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def read_all(self) -> None:
        self.append_all([SessionAppend(session_id) for session_id in ("visitor", "user", "other")])

    def append_all(self, in_memory: list[SessionAppend], in_redis: list[SessionAppend] | None = None) -> None:
        """Append to the sessions in both stores, and compare the sessions or errors that they return."""
        both = self.run(self.in_memory.append_all(in_memory)), self.run(self.in_redis.append_all(in_redis or in_memory))
        for append, expected, actual in zip(in_memory, *both, strict=True):
            assert type(expected) is type(actual)
            if isinstance(expected, Session) and isinstance(actual, Session):
                assert _comparable(expected) == _comparable(actual)
                self.check_position(append.session_id, expected.position, actual.position)

    def check_position(self, session_id: str, in_memory: str, in_redis: str) -> None:
        """Compare positions of a session; in each store every generation of it has a random name of its own."""
        expected, actual = Position.parse(in_memory), Position.parse(in_redis)
        assert expected.number == actual.number
        self.generations.add((session_id, expected.generation, actual.generation))
        for store in (1, 2):
            assert len({(names[0], names[store]) for names in self.generations}) == len(self.generations)
        self.tokens.append((session_id, in_memory, in_redis))


def _comparable(session: Session) -> Session:
    return session._replace(position="", outcomes=[*session.outcomes])


def test_stores_in_redis_and_in_memory_return_the_same(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory", "redis"):
        for limit in ("REMEMBERED_EVENT_IDS", "REMEMBERED_MARKS"):
            monkeypatch.setattr(f"onward.service.sessions.{module}.{limit}", REMEMBERED)

    class WithServer(Sessions):
        url = valkey

    run_state_machine_as_test(
        WithServer,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
