"""How the comparison of two revisions orders its servers and judges its ratios."""

import pytest

from onward.service.bench.server import Server
from tests.benchmarks.revisions import FIGURES, in_turn, spread, summary, verdict


def test_each_round_begins_with_the_next_server() -> None:
    order: list[str] = []

    def run_load(server: Server) -> dict[str, float]:
        order.append(server.url)
        return {}

    in_turn({name: Server(name) for name in "abc"}, 4, run_load)
    assert "".join(order) == "abcbcacababc"


def test_the_deviation_is_that_of_the_median_and_falls_with_more_rounds() -> None:
    assert spread([1.04, 1.04, 1.04]) == {"median": 1.04, "middle_half": [1.04, 1.04], "deviation": 0.04}
    few, many = spread([0.98, 1, 1.02]), spread([0.98, 1, 1.02] * 16)
    assert 0 < many["deviation"] < few["deviation"]


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [(1.01, 0.01, "within"), (1.03, 0.01, "exceeded"), (1.0, 0.02, "unknown"), (1.5, 0.3, "unknown")],
)
def test_a_limit_below_the_noise_is_not_claimed(ratio: float, noise: float, expected: str) -> None:
    assert verdict(ratio, noise, limit=0.02).startswith(expected)


def test_ratios_are_of_the_same_round() -> None:
    def figures(value: float) -> dict[str, object]:
        return {**dict.fromkeys(FIGURES, value), "errors": {"degraded": 1}}

    rounds = [{"then": figures(speed), "now": figures(2 * speed), "then again": figures(speed)} for speed in (1, 5, 9)]
    result = summary(rounds, limit=0.02)
    assert result["ratios"]["p50_ms"]["median"] == 2
    assert result["noise"]["p50_ms"] == {"median": 1, "middle_half": [1, 1], "deviation": 0}
    assert result["limit"]["verdict"] == "exceeded"
    assert result["errors"] == {"degraded": 9}
