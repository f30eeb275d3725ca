"""Scenarios: the options of a recommendation, kept under a name for all workers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationError

from onward.service.errors import PreconditionFailed, ScenarioNotFound, ServiceError, UnknownScenario
from onward.service.live.replica import Replica, open_replica
from onward.service.live.versioned_store import Entry
from onward.service.recommend.options import RecommendationOptions

MAX_SCENARIOS = 1_000

Condition = Callable[[int | None], bool]
"""Whether the version that is stored, None for no scenario, is the one that a caller means to replace."""


class Scenario(NamedTuple):
    """Named options, and how often some were stored under the name: from 1."""

    name: str
    version: int
    options: RecommendationOptions


class Scenarios:
    """A worker's view of the scenarios that all workers share, and the way to change some."""

    def __init__(self, mirror: Replica) -> None:
        self._mirror = mirror
        self._read: dict[str, tuple[Entry, Scenario | None]] = {}

    async def follow(self) -> None:
        """Read what other workers changed. A failure is logged, not raised."""
        await self._mirror.follow()

    def find(self, name: str) -> Scenario | None:
        """Return a scenario, None where there is none of the name, or one that another version of the service wrote."""
        entry = self._mirror.entries.get(name)
        if entry is None:
            return None
        if name not in self._read or self._read[name][0] is not entry:
            self._read[name] = entry, _scenario(name, entry)
        return self._read[name][1]

    def get(self, name: str) -> Scenario:
        """Return the scenario that a recommendation goes by. Raises UnknownScenario."""
        if (scenario := self.find(name)) is None:
            raise UnknownScenario("No scenario of this name is stored.")
        return scenario

    def all(self) -> list[Scenario]:
        """Return every scenario, by name."""
        return [scenario for name in sorted(self._mirror.entries) if (scenario := self.find(name)) is not None]

    async def put(self, name: str, options: RecommendationOptions, condition: Condition) -> Scenario:
        """Store options under a name, whose version grows by one.

        Raises PreconditionFailed where the condition does not hold, LimitReached, LiveStoreUnavailable.
        """

        def edit(held: Entry | None) -> Any:
            if not condition(_version(held)):
                raise PreconditionFailed("The scenario is not at the version that If-Match names.")
            return options.given()

        entry = await self._edited(name, edit)
        return Scenario(name, entry.revision, options)

    async def delete(self, name: str, condition: Condition) -> None:
        """Remove a scenario. Raises ScenarioNotFound, and as `put` does."""

        def edit(held: Entry | None) -> Any:
            if _version(held) is None:
                raise ScenarioNotFound
            if not condition(_version(held)):
                raise PreconditionFailed("The scenario is not at the version that If-Match names.")

        await self._edited(name, edit)

    async def close(self) -> None:
        """Let go of the store."""
        await self._mirror.close()

    async def _edited(self, name: str, edit: Callable[[Entry | None], Any]) -> Entry:
        outcome = (await self._mirror.update({name: edit}))[name]
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome


def open_scenarios(url: str | None) -> Scenarios:
    """Open the scenarios that are kept at a server, or those of this process alone where there is none."""
    return Scenarios(open_replica(url, "scenarios", max_names=MAX_SCENARIOS))


def _version(held: Entry | None) -> int | None:
    return None if held is None or held.value is None else held.revision


def _scenario(name: str, entry: Entry) -> Scenario | None:
    try:
        return Scenario(name, entry.revision, RecommendationOptions.model_validate(entry.value))
    except ValidationError:  # of a removed one too
        return None
