"""Token buckets, with a clock that the tests set."""

import pytest

from onward.service.http.admission.token_bucket import TokenBuckets
from onward.service.rate_limit import RateLimit


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("text", ["1/second", "3/second", "100/minute", "7/hour", "1000/day"])
def test_a_full_bucket_allows_a_burst_and_refills_evenly(text: str) -> None:
    limit, clock = RateLimit.parse(text), ManualClock()
    buckets = TokenBuckets(limit, clock=clock)
    assert not any(buckets.spend("a") for _ in range(limit.requests))
    for _ in range(5):
        wait_s = buckets.spend("a")
        assert wait_s == pytest.approx(limit.period_s / limit.requests, rel=1e-4)
        clock.now_s += wait_s / 2
        assert buckets.spend("a") == pytest.approx(wait_s / 2, rel=1e-4)
        clock.now_s += wait_s / 2 + 1e-6
        assert buckets.spend("a") == 0


def test_each_caller_has_a_bucket() -> None:
    buckets = TokenBuckets(RateLimit.parse("1/second"), clock=ManualClock())
    assert [buckets.spend(caller) for caller in ("a", "b", "a")] == [0, 0, 1]


def test_a_bucket_never_exceeds_its_capacity() -> None:
    clock = ManualClock()
    buckets = TokenBuckets(RateLimit.parse("3/second"), clock=clock)
    for pause_s in (0, 1, 100):
        clock.now_s += pause_s
        assert [buckets.spend("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_with_too_many_callers_those_unseen_for_longest_are_dropped() -> None:
    clock = ManualClock()
    buckets = TokenBuckets(RateLimit.parse("1/day"), max_callers=3, clock=clock)
    for caller in "abcde":
        assert buckets.spend(caller) == 0
    assert buckets.spend("e") > 0
    assert buckets.spend("a") == 0
