"""The plan of a demand."""

import pytest

from onward.service.planning import Demand, Prices, plan
from onward.service.planning.plan import LOAD_SHARE, SPARE

PRICES = Prices(currency="EUR", core_hour=0.04, memory_gib_hour=0.005, store_gib_hour=0.02, object_gib_month=0.02)
SHOP = Demand(items=50_000, users=20_000, rate_per_s=50)


def test_replicas_carry_the_peak_with_one_to_spare() -> None:
    replicas = plan(Demand(items=1_000_000, users=10**9, rate_per_s=30_000), PRICES).replicas
    carried = (replicas.count - SPARE) * replicas.highest_rate_per_s * LOAD_SHARE
    assert carried >= 30_000 > carried - replicas.highest_rate_per_s * LOAD_SHARE


def test_the_store_holds_no_more_sessions_than_there_are_users() -> None:
    busy = Demand(items=1_000, users=500, rate_per_s=1_000)
    assert plan(busy, PRICES).store.live_sessions == 500


def test_sessions_stay_for_their_length_and_the_time_to_live() -> None:
    demand = Demand(
        items=1, users=10**9, rate_per_s=50, events_per_session=5, seconds_between_events=60, session_ttl_s=1800
    )
    assert demand.live_sessions == 50 / 5 * (4 * 60 + 1800)


def test_a_training_reads_no_more_than_the_newest_events() -> None:
    assert plan(Demand(items=1, users=1, rate_per_s=1e6), PRICES).training.events == 20_000_000


def test_costs_follow_the_price_table() -> None:
    free = Prices(currency="EUR", core_hour=0, memory_gib_hour=0, store_gib_hour=0, object_gib_month=0)
    assert set(plan(SHOP, free).cost_per_month.values()) == {0}
    dear = PRICES.model_copy(update={"store_gib_hour": PRICES.store_gib_hour * 2})
    assert plan(SHOP, dear).cost_per_month["store"] == pytest.approx(2 * plan(SHOP, PRICES).cost_per_month["store"])


def test_a_plan_has_figures_as_json() -> None:
    figures = plan(SHOP, PRICES).figures()
    assert figures["demand"]["items"] == 50_000
    assert figures["replicas"]["count"] == 2
    assert figures["cost_per_month"].keys() == {"service", "store", "training", "objects"}
