"""A plan tries as much as a budget allows, and says what it leaves out."""

import pytest

from onward.training.fitting.plan import FEWEST_FINAL_EPOCHS, FINALISTS, USABLE, plan_for
from onward.training.fitting.plan_text import plan_lines
from onward.training.fitting.records import Plan

NETWORKS = [f"network-{number}" for number in range(8)]
COSTS = {"knn": 2.0, **dict.fromkeys(NETWORKS, 100.0)}
MANY = 1_000_000


def planned(seconds: float, *, examples: int = MANY) -> Plan:
    return plan_for(COSTS, NETWORKS, examples, seconds)


def test_an_ample_budget_trains_all_in_full() -> None:
    plan = planned(2_000)
    assert [(rung.share, rung.epochs) for rung in plan.rungs] == [(1, 0.25), (1, 1)]
    assert plan.rungs[0].candidates == ("knn", *NETWORKS)
    assert plan.rungs[0].keep == len(NETWORKS)
    assert (plan.skipped, plan.final_epochs) == ((), 1)


def test_a_smaller_budget_trains_the_best_in_full() -> None:
    plan = planned(800)
    assert [(rung.share, rung.epochs, rung.keep) for rung in plan.rungs] == [(1, 0.25, FINALISTS), (1, 1, 0)]
    assert len(plan.rungs[0].candidates) >= 7
    assert "rung 2: the best 3 networks, at most two of a model, in full" in list(plan_lines(plan))


def test_a_small_budget_for_much_data_compares_on_the_newest_sessions() -> None:
    plan = planned(200)
    assert len(plan.rungs) == 1
    assert plan.rungs[0].share < 1
    assert plan.rungs[0].share * MANY >= 50_000
    assert plan.rungs[0].candidates == ("knn", *NETWORKS)
    assert FEWEST_FINAL_EPOCHS <= plan.final_epochs <= 1


def test_little_data_is_never_sampled_but_trained_for_less_epochs() -> None:
    plan = planned(300, examples=20_000)
    assert [(rung.share, rung.epochs) for rung in plan.rungs] == [(1, 0.25)]
    assert len(plan.rungs[0].candidates) >= 6


def test_without_time_for_a_network_the_others_are_tried_and_the_reason_is_said() -> None:
    plan = planned(20)
    assert [rung.candidates for rung in plan.rungs] == [("knn",)]
    assert [skipped.candidate for skipped in plan.skipped] == NETWORKS
    why = "a training in full takes about 100 s, and the budget leaves 12 s for all trainings"
    assert {skipped.why for skipped in plan.skipped} == {why}


@pytest.mark.parametrize("seconds", [150, 300, 450, 600, 800, 1_100, 5_000])
def test_what_is_planned_fits_the_budget(seconds: float) -> None:
    plan = planned(seconds)
    entered = [[name for name in plan.rungs[0].candidates if name in NETWORKS], NETWORKS[: plan.rungs[0].keep]]
    search = sum(
        rung.share * rung.epochs * sum(COSTS[name] for name in names)
        for rung, names in zip(plan.rungs, entered, strict=False)
    )
    final = plan.final_epochs * (plan.rungs[-1].epochs if plan.rungs[-1].share == 1 else 1)
    assert search + final * 100 + 2 * COSTS["knn"] <= USABLE * seconds + 1e-9


def test_a_network_too_slow_for_the_budget_does_not_keep_out_faster_ones() -> None:
    plan = plan_for({"slow": 1e6, "fast": 10.0}, ["slow", "fast"], 1_000, 100)
    assert plan.rungs[0].candidates == ("fast",)
    assert [skipped.candidate for skipped in plan.skipped] == ["slow"]
