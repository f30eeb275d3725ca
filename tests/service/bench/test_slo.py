import pytest

from onward.service.bench.load_generator.load_result import LoadRecord, LoadResult
from onward.service.bench.slo import Slo


def result(*latencies_ms: float, **errors: int) -> LoadResult:
    record = LoadRecord(latencies_s=[ms / 1000 for ms in latencies_ms], answered=len(latencies_ms), seconds=1.0)
    record.errors.update(errors)
    return LoadResult.of(record)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("p90=50ms", "p90=50ms"),
        (" p50=5ms, p99.9=0.25s ", "p50=5ms,p99.9=250ms"),
        ("max=1s", "max=1000ms"),
    ],
)
def test_an_objective_is_parsed_and_formatted(text: str, written: str) -> None:
    assert str(Slo.parse(text)) == written


@pytest.mark.parametrize(
    "text", ["", "p90", "p90=", "p90=50", "p95=5ms", "p90=-5ms", "p90=0ms", "p90=nanms", "p90=5ms,,", "p90=5ms,p90=9ms"]
)
def test_an_invalid_objective_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A.*(not an objective|no time|twice).*\Z"):
        Slo.parse(text)


def test_each_exceeded_limit_and_each_error_misses_the_objective() -> None:
    slo = Slo.parse("p50=10ms,max=20ms")
    assert slo.misses(result(5, 9, 20)) == []
    assert slo.misses(result(5, 9, 21)) == ["max 21.0 ms"]
    assert slo.misses(result(15, 15, 21)) == ["p50 15.0 ms", "max 21.0 ms"]
    assert slo.misses(result(5, 9, 20, degraded=2)) == ["2 x degraded"]
    assert slo.misses(result()) == ["p50: no answer", "max: no answer"]
