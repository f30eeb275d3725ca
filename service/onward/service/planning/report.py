"""A plan as text."""

from collections.abc import Iterator

from onward.service.planning.plan import KEPT_BUNDLES, LOAD_SHARE, SPARE, Plan


def lines(plan: Plan, currency: str) -> Iterator[str]:
    """Yield the plan as lines of text."""
    demand, replicas, store, training = plan.demand, plan.replicas, plan.store, plan.training
    yield f"{demand.items:,} items, {demand.users:,} users a day, {demand.rate_per_s:,.0f} requests/s at the peak"
    yield (
        f"service    {replicas.count:,} replicas of {replicas.cores} cores and {_size(replicas.memory_gib)}, "
        f"{SPARE} to spare"
    )
    yield (
        f"           a replica answers {replicas.highest_rate_per_s:,.0f} requests/s at most and is given "
        f"{LOAD_SHARE:.0%} of that"
    )
    yield f"           a replica answers {_time(replicas.start_s)} after its start, once the bundle is on its disk"
    yield f"bundle     {_size(plan.bundle_gib)}, {KEPT_BUNDLES} kept"
    yield (
        f"store      {_count(store.masters, 'master')}, each with a replica; {_size(store.memory_gib)} for "
        f"{store.live_sessions:,} live sessions and their answers"
    )
    yield f"event log  {_size(plan.log_gib_per_day)} a day, kept for {demand.log_days} days"
    yield (
        f"training   {training.events:,.0f} events: {_size(training.memory_gib)} of memory, "
        f"{training.core_hours:,.1f} core hours each night"
    )
    for name, cost in plan.cost_per_month.items():
        yield f"cost       {cost:>12,.0f} {currency} a month for {name}"
    yield f"cost       {sum(plan.cost_per_month.values()):>12,.0f} {currency} a month in all"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _size(gib: float) -> str:
    return f"{gib * 1024:,.0f} MiB" if gib < 1 else f"{gib:,.1f} GiB"


def _time(seconds: float) -> str:
    return f"{seconds:,.0f} s"
