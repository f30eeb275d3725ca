"""The parts of the service that endpoints use: what all tenants share, and what each keeps for itself."""

from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from onward.service.background import on_demand, repeated
from onward.service.live.bundle import LiveBundle
from onward.service.live.bundle_ids import BundleIds
from onward.service.live.catalog import LiveCatalog
from onward.service.live.jobs import Jobs
from onward.service.live.releases import Releases
from onward.service.live.replica import FOLLOW_INTERVAL
from onward.service.live.versioned_store import CALL_TIMEOUT as LIVE_TIMEOUT
from onward.service.recommend.explainer import Explainer
from onward.service.recommend.item_lists import ItemLists
from onward.service.recommend.next_pages import NextPages
from onward.service.recommend.pipeline import Pipeline
from onward.service.recommend.recall_meter import RecallMeter
from onward.service.recommend.scenarios import open_scenarios
from onward.service.recommend.session_history import SessionHistories
from onward.service.records.answer_stores import InMemoryAnswerStore
from onward.service.records.recorder import open_recorder
from onward.service.redis_client import Connector
from onward.service.sessions import (
    DELIVERY_INTERVAL,
    EventQueue,
    EventRules,
    InMemorySessionStore,
    RedisSessionStore,
    SessionShares,
    SessionStore,
)
from onward.service.settings import Settings
from onward.service.tenants import key_prefix

TENANT_FOLLOW_INTERVAL = 2 * FOLLOW_INTERVAL
"""Time between two reads of the scenarios of a tenant, of whom there may be a hundred."""


@dataclass(frozen=True, slots=True)
class SharedParts:
    """What all tenants share: the settings, the bundle and the catalog."""

    settings: Settings
    connector: Connector | None
    """Makes clients of the store; None for this process's memory."""
    live: LiveBundle
    catalog: LiveCatalog
    ids: BundleIds
    releases: Releases
    jobs: Jobs


class Tenants:
    """The parts of each tenant: opened when a key first names the tenant, and closed with the service."""

    def __init__(self, shared: SharedParts, running: AsyncExitStack) -> None:
        """Open nothing yet; what is opened is closed with `running`."""
        self._shared = shared
        self._running = running
        self.parts: dict[str, Mapping[str, Any]] = {}

    async def open(self, tenants: Collection[str]) -> None:
        """Open the parts of those tenants that have none yet."""
        for tenant in tenants:
            if tenant not in self.parts:
                async with AsyncExitStack() as opening:  # closes what is open already if the rest cannot be opened
                    self.parts[tenant] = await open_tenant(self._shared, tenant, opening)
                    self._running.push_async_exit(opening.pop_all())


async def open_tenant(shared: SharedParts, tenant: str | None, running: AsyncExitStack) -> Mapping[str, Any]:
    """Open what a tenant keeps for itself, and run its background tasks until `running` is closed.

    None stands for the deployment itself. Returns the parts by the names under which endpoints take them.
    """
    settings, prefix = shared.settings, key_prefix(tenant)
    in_memory = InMemoryAnswerStore(ttl=settings.answer_ttl)
    store = _open_store(shared, in_memory, prefix)
    running.push_async_callback(store.close)
    connector = shared.connector
    scenarios = open_scenarios(None if connector is None else connector.client(LIVE_TIMEOUT), prefix=prefix)
    running.push_async_callback(scenarios.close)
    redis = None if connector is None else connector.client()
    recorder = await running.enter_async_context(open_recorder(settings, redis, shared.ids, in_memory, tenant))
    if settings.recall_sample:
        meter = RecallMeter(shared.live, every=settings.recall_sample)
        running.push_async_callback(meter.close)
        recorder.on_answers = meter.answered
    shares = SessionShares(
        recorder.popularity,
        shared.catalog,
        max_weight=settings.event_weights.largest,
        period=settings.popularity_half_life,
    )
    events = EventQueue(recorder, shares)
    running.push_async_callback(events.flush)
    await running.enter_async_context(on_demand(events.is_filled, events.flush, DELIVERY_INTERVAL))
    interval = FOLLOW_INTERVAL if tenant is None else TENANT_FOLLOW_INTERVAL
    await running.enter_async_context(repeated(scenarios.follow, interval))
    live, rules = shared.live, EventRules(settings.event_weights, settings.max_event_age)
    return {
        "store": store,
        "scenarios": scenarios,
        "recorder": recorder,
        "listener": events,
        "event_rules": rules,
        "pipeline": Pipeline(
            live, store, scenarios, recorder, events, rules, settings.store_timeout / 2, settings.timeout
        ),
        "item_lists": ItemLists(live, recorder, settings.timeout),
        "next_pages": NextPages(live, recorder, settings.timeout),
        "explainer": Explainer(live, recorder),
        "session_histories": SessionHistories(live, store, recorder),
    }


def _open_store(shared: SharedParts, in_memory: InMemoryAnswerStore, prefix: str) -> SessionStore:
    """Open the session store that the settings select; `in_memory` has the answers of one that is in memory."""
    settings = shared.settings
    if shared.connector is None:
        return InMemorySessionStore(
            length=settings.session_length, ttl=settings.session_ttl, answer_generation=in_memory.generation
        )
    return RedisSessionStore(
        shared.connector.client(settings.store_timeout),
        length=settings.session_length,
        ttl=settings.session_ttl,
        answer_ttl=settings.answer_ttl,
        prefix=f"{prefix}session:",
    )
