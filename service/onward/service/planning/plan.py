"""The plan: replicas, memory, store, log, training and cost of a demand."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from onward.service.planning import formulas
from onward.service.planning.demand import Demand
from onward.service.planning.prices import Prices

LOAD_SHARE = 0.7
"""Share of its highest rate that a server is given, as in `onward-service bench`."""
SPARE = 1
"""Replicas beyond those that the load needs, so that one may be lost, or replaced, at the peak."""
STORE_LOAD_SHARE = 0.5
STORE_MEMORY_SHARE = 0.7
"""Share of its memory that a store is given: the rest is for fragmentation and for what it copies while it saves."""
KEPT_BUNDLES = 5
HOURS_PER_MONTH = 730
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of the service."""

    count: int
    cores: int
    memory_gib: float
    highest_rate_per_s: float
    """Of one replica."""
    start_s: float
    """From the start of a replica to its first answer, once the bundle is on its disk."""


@dataclass(frozen=True, slots=True)
class Store:
    """The session store: masters of Redis or Valkey, each with a replica."""

    masters: int
    live_sessions: int
    memory_gib: float
    """Of all masters together."""


@dataclass(frozen=True, slots=True)
class Training:
    """A training of the item table in one process, or by ranks that each own a part of it."""

    events: float
    memory_gib: float
    core_hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demand takes."""

    demand: Demand
    replicas: Replicas
    store: Store
    bundle_gib: float
    log_gib_per_day: float
    training: Training
    cost_per_month: dict[str, float]
    """In the currency of the price table, by part."""

    def figures(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        figures = asdict(self)
        figures["cost_per_month"] = {name: round(cost, 2) for name, cost in self.cost_per_month.items()}
        return figures


def plan(demand: Demand, prices: Prices) -> Plan:
    """Compute the plan of a demand."""
    replicas, store, training = _replicas(demand), _store(demand), _training(demand)
    bundle_gib = formulas.bundle_bytes(demand.items, demand.dimension) / GIB
    log_gib_per_day = demand.events_per_day * (formulas.LOGGED_EVENT_BYTES + formulas.LOGGED_ANSWER_BYTES) / GIB
    objects_gib = bundle_gib * KEPT_BUNDLES + log_gib_per_day * demand.log_days
    return Plan(
        demand=demand,
        replicas=replicas,
        store=store,
        bundle_gib=bundle_gib,
        log_gib_per_day=log_gib_per_day,
        training=training,
        cost_per_month={
            "service": replicas.count
            * HOURS_PER_MONTH
            * (replicas.cores * prices.core_hour + replicas.memory_gib * prices.memory_gib_hour),
            "store": 2 * store.memory_gib / STORE_MEMORY_SHARE * HOURS_PER_MONTH * prices.store_gib_hour,
            "training": 30 * training.core_hours * prices.core_hour,
            "objects": objects_gib * prices.object_gib_month,
        },
    )


def _replicas(demand: Demand) -> Replicas:
    highest_rate_per_s = demand.cores / formulas.request_cpu_s(demand.items)
    memory_bytes = formulas.replica_bytes(demand.items, demand.dimension, demand.cores)
    return Replicas(
        count=math.ceil(demand.rate_per_s / (highest_rate_per_s * LOAD_SHARE)) + SPARE,
        cores=demand.cores,
        memory_gib=memory_bytes / GIB,
        highest_rate_per_s=highest_rate_per_s,
        start_s=formulas.start_s(demand.items),
    )


def _store(demand: Demand) -> Store:
    live_sessions = demand.live_sessions
    return Store(
        masters=math.ceil(demand.rate_per_s * formulas.STORE_CPU_S / STORE_LOAD_SHARE),
        live_sessions=round(live_sessions),
        memory_gib=live_sessions * formulas.session_bytes(demand.events_per_session) / GIB,
    )


def _training(demand: Demand) -> Training:
    events, items, dimension = demand.training_events, demand.items, demand.dimension
    return Training(
        events=events,
        memory_gib=formulas.training_bytes(events, items, dimension) / GIB,
        core_hours=formulas.training_core_s(events, items, dimension, demand.epochs) / 3600,
    )
