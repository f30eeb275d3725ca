"""Scenarios: recommendation options stored under a name, shared by all workers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationError

from onward.service.errors import PreconditionFailed, ScenarioNotFound, ServiceError, UnknownScenario
from onward.service.live.replica import Edited, Replica, open_replica
from onward.service.live.versioned_store import Entry
from onward.service.recommend.options import RecommendationOptions
from onward.service.redis_client import RedisClient
from onward.service.tenants import PREFIX

MAX_SCENARIOS = 1_000

Precondition = Callable[[int | None], bool]
"""Whether the stored version, None if no scenario is stored, is one that the caller means to replace."""


class Scenario(NamedTuple):
    """Named options and their version: how often options were stored under the name."""

    name: str
    version: int
    options: RecommendationOptions


class ScenarioPut(NamedTuple):
    """A scenario that was stored, and how its options changed."""

    scenario: Scenario
    options: Edited


class Scenarios:
    """A worker's replica of the scenarios, with updates by optimistic concurrency."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._parsed: dict[str, tuple[Entry, Scenario | None]] = {}

    async def follow(self) -> None:
        """Read what other workers changed. A failure is logged, not raised."""
        await self._replica.follow()

    def find(self, name: str) -> Scenario | None:
        """Return a scenario, None if there is none of the name or if this version of the service cannot read it."""
        entry = self._replica.entries.get(name)
        if entry is None:
            return None
        if name not in self._parsed or self._parsed[name][0] is not entry:
            self._parsed[name] = entry, _scenario(name, entry)
        return self._parsed[name][1]

    def get(self, name: str) -> Scenario:
        """Return the scenario that a recommendation names. Raises UnknownScenario."""
        if (scenario := self.find(name)) is None:
            raise UnknownScenario("No scenario of this name is stored.")
        return scenario

    def all(self) -> list[Scenario]:
        """Return every scenario, sorted by name."""
        return [scenario for name in sorted(self._replica.entries) if (scenario := self.find(name)) is not None]

    async def put(self, name: str, options: RecommendationOptions, precondition: Precondition) -> ScenarioPut:
        """Store options under a name and increase its version by one.

        Raises PreconditionFailed, LimitReached, LiveStoreUnavailable.
        """
        before: Any = None

        def edit(stored: Entry | None) -> Any:
            nonlocal before
            before = _options(stored)
            if not precondition(_version(stored)):
                raise PreconditionFailed("The scenario is not at the version that If-Match names.")
            return options.as_json()

        entry = await self._edit(name, edit)
        return ScenarioPut(Scenario(name, entry.revision, options), Edited(before, entry.value))

    async def delete(self, name: str, precondition: Precondition) -> Edited:
        """Remove a scenario. Raises ScenarioNotFound, PreconditionFailed, LiveStoreUnavailable."""
        before: Any = None

        def edit(stored: Entry | None) -> Any:
            nonlocal before
            before = _options(stored)
            if _version(stored) is None:
                raise ScenarioNotFound
            if not precondition(_version(stored)):
                raise PreconditionFailed("The scenario is not at the version that If-Match names.")

        await self._edit(name, edit)
        return Edited(before, None)

    async def close(self) -> None:
        """Close the connection to the store."""
        await self._replica.close()

    async def _edit(self, name: str, edit: Callable[[Entry | None], Any]) -> Entry:
        outcome = (await self._replica.update({name: edit}))[name]
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome


def open_scenarios(redis: RedisClient | None, *, prefix: str = PREFIX) -> Scenarios:
    """Open the scenarios of a tenant stored at a server, or those of this process alone if there is none."""
    return Scenarios(open_replica(redis, "scenarios", max_names=MAX_SCENARIOS, prefix=prefix))


def _options(entry: Entry | None) -> Any:
    return None if entry is None else entry.value


def _version(entry: Entry | None) -> int | None:
    return None if entry is None or entry.value is None else entry.revision


def _scenario(name: str, entry: Entry) -> Scenario | None:
    try:
        return Scenario(name, entry.revision, RecommendationOptions.model_validate(entry.value))
    except ValidationError:  # also of a tombstone
        return None
