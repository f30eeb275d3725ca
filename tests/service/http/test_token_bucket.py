"""A caller's allowance, by a clock of the test's own."""

import pytest

from onward.service.rate_limit import RateLimit, TokenBuckets


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_limit_is_written_as_it_is_read() -> None:
    assert str(RateLimit.parse("100/second")) == "100/second"
    assert RateLimit.parse("5/minute").period_s == 60


@pytest.mark.parametrize("written", ["", "100", "0/second", "-1/second", "1.5/second", "1/fortnight", "1/second;2/day"])
def test_what_is_no_limit_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="as in 100/second"):
        RateLimit.parse(written)


@pytest.mark.parametrize("written", ["1/second", "3/second", "100/minute", "7/hour", "1000/day"])
def test_all_of_it_can_be_spent_at_once_and_then_as_it_comes_back(written: str) -> None:
    limit, clock = RateLimit.parse(written), Clock()
    allowances = TokenBuckets(limit, clock=clock)
    assert not any(allowances.spend("a") for _ in range(limit.requests))
    for _ in range(5):
        wait_s = allowances.spend("a")
        assert wait_s == pytest.approx(limit.period_s / limit.requests, rel=1e-4)
        clock.now_s += wait_s / 2
        assert allowances.spend("a") == pytest.approx(wait_s / 2, rel=1e-4)
        clock.now_s += wait_s / 2 + 1e-6
        assert allowances.spend("a") == 0


def test_one_caller_does_not_spend_what_is_anothers() -> None:
    allowances = TokenBuckets(RateLimit.parse("1/second"), clock=Clock())
    assert [allowances.spend(caller) for caller in ("a", "b", "a")] == [0, 0, 1]


def test_after_a_period_a_caller_has_all_of_it_and_no_more() -> None:
    clock = Clock()
    allowances = TokenBuckets(RateLimit.parse("3/second"), clock=clock)
    for pause_s in (0, 1, 100):
        clock.now_s += pause_s
        assert [allowances.spend("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_only_so_many_callers_are_remembered_and_the_latest_are() -> None:
    clock = Clock()
    allowances = TokenBuckets(RateLimit.parse("1/day"), max_callers=3, clock=clock)
    for caller in "abcde":
        assert allowances.spend(caller) == 0
    assert allowances.spend("e") > 0
    assert allowances.spend("a") == 0
