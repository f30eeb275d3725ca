import pytest

from onward.service.bench.outcome import Outcome, Record
from onward.service.bench.slo import Slo


def outcome(*latencies_ms: float, **errors: int) -> Outcome:
    record = Record(latencies_s=[ms / 1000 for ms in latencies_ms], answered=len(latencies_ms), seconds=1.0)
    record.errors.update(errors)
    return Outcome.of(record)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("p90=50ms", "p90=50ms"),
        (" p50=5ms, p99.9=0.25s ", "p50=5ms,p99.9=250ms"),
        ("max=1s", "max=1000ms"),
    ],
)
def test_an_objective_is_read_as_it_is_written(text: str, written: str) -> None:
    assert str(Slo.parse(text)) == written


@pytest.mark.parametrize(
    "text", ["", "p90", "p90=", "p90=50", "p95=5ms", "p90=-5ms", "p90=0ms", "p90=nanms", "p90=5ms,,", "p90=5ms,p90=9ms"]
)
def test_what_is_no_objective_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A.*(no objective|no time|twice).*\Z"):
        Slo.parse(text)


def test_an_objective_is_missed_by_each_limit_and_by_any_error() -> None:
    slo = Slo.parse("p50=10ms,max=20ms")
    assert slo.misses(outcome(5, 9, 20)) == []
    assert slo.misses(outcome(5, 9, 21)) == ["max 21.0 ms"]
    assert slo.misses(outcome(15, 15, 21)) == ["p50 15.0 ms", "max 21.0 ms"]
    assert slo.misses(outcome(5, 9, 20, degraded=2)) == ["2 x degraded"]
    assert slo.misses(outcome()) == ["p50: no answer", "max: no answer"]
