import numpy as np
import pytest

from onward.service.bench.load_generator.arrivals import Arrivals


def test_arrivals_have_the_planned_rate_and_exponential_gaps() -> None:
    times = Arrivals(500, 40).times(seed=1)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert gaps.min() >= 0
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_arrivals_depend_on_the_seed_alone() -> None:
    arrivals = Arrivals(50, 2)
    assert arrivals.times(3).tolist() == arrivals.times(3).tolist()
    assert arrivals.times(3).tolist() != arrivals.times(4).tolist()


@pytest.mark.parametrize(("rate", "until_rate", "first_half"), [(0, 1_000, 0.25), (1_000, 0, 0.75), (500, 500, 0.5)])
def test_a_ramp_follows_its_rate_over_time(rate: float, until_rate: float, first_half: float) -> None:
    arrivals = Arrivals(rate, 20, until_rate)
    times = arrivals.times(seed=2)
    assert len(times) == pytest.approx(arrivals.mean_rate * 20, rel=0.05)
    assert (times < 10).mean() == pytest.approx(first_half, abs=0.02)
    assert times.max() <= 20
    assert arrivals.rate_at(10) == arrivals.mean_rate
