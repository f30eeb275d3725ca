from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers import polars_engine
from onward.training.data.readers.engine import SOURCE_ROW
from onward.training.data.readers.events import flag_duplicates
from onward.training.data.readers.polars_engine import PolarsEngine, plain_instants
from onward.training.data.readers.timestamps import TimeFormat, with_epoch_ms
from onward.training.data.synthetic import generate
from tests.training.data.conftest import START_MS, Prepare, log, shown


@pytest.mark.parametrize(
    ("split", "gap_ms"), [(SplitKind.TEMPORAL, None), (SplitKind.TEMPORAL, 60_000), (SplitKind.BY_USER, None)]
)
def test_a_log_in_buckets_gives_the_same_dataset_as_in_memory(
    tmp_path: Path, split: SplitKind, gap_ms: int | None
) -> None:
    generate(3_000, seed=5).write(tmp_path / "shop")
    preparation = Preparation(split=split, min_support=2, min_length=3, gap_ms=gap_ms)
    events = [str(tmp_path / "shop" / "events.parquet")]
    in_memory = prepare(events, tmp_path / "whole", preparation, PolarsEngine)
    in_buckets = prepare(events, tmp_path / "buckets", preparation, partial(PolarsEngine, bucket_rows=500))
    assert in_buckets.model_copy(update={"created": in_memory.created}) == in_memory


@pytest.mark.parametrize(("gib", "rows"), [(0.1, 1_000_000), (10, 10_737_418), (10_000, 100_000_000)])
def test_a_share_of_the_available_memory_holds_events(monkeypatch: pytest.MonkeyPatch, gib: float, rows: int) -> None:
    monkeypatch.setattr(polars_engine, "available_memory", lambda: int(gib * 2**30))
    assert polars_engine.rows_in_memory() == rows


NUMBERS = st.one_of(st.integers(-(10**13), 10**17), st.integers(10**8, 10**14)).map(str)
WRITTEN = st.one_of(st.none(), NUMBERS, NUMBERS.map("0{}".format), NUMBERS.map("+{}".format), st.just("2024-01-31"))


@given(st.lists(st.one_of(st.integers(10**8, 10**11).map(str), st.integers(10**12, 10**13 - 1).map(str), WRITTEN)))
@settings(max_examples=300, deadline=None)
def test_plain_numbers_are_the_same_instants_as_among_other_times(texts: list[str | None]) -> None:
    instants = plain_instants(pl.Series(texts, dtype=pl.String))
    if instants is None:
        return
    with TemporaryDirectory() as folder:
        rows = nw.from_native(pl.LazyFrame({"time": [*texts, "yesterday"]}, schema={"time": pl.String}))
        read = with_epoch_ms(PolarsEngine(Path(folder)), rows, "log.csv", "time", TimeFormat(), "instant")
        assert read.collect("polars").to_native()["instant"].to_list() == [*instants, None]


def test_only_other_texts_than_plain_numbers_take_the_long_way() -> None:
    assert plain_instants(pl.Series(["1700006400", None, "1700006400123"])) is not None
    for text in ("", "+1700006400", "17000064001234", "-1700006400", " 1700006400", "2024-01-31", "17000064"):
        assert plain_instants(pl.Series(["1700006400", text])) is None


REPEATED = st.tuples(
    st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from([0, 1, None]), st.sampled_from([None, 0.0, -0.0, 2.5])
)


@given(st.lists(REPEATED, max_size=30))
@settings(max_examples=100, deadline=None)
def test_repeated_events_are_flagged_but_for_the_first(rows: list[tuple[str, str, int | None, float | None]]) -> None:
    schema = ["session_id", "item_id", "timestamp_ms", "sequence"]
    events = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("timestamp_ms").cast(pl.Int64) + START_MS,
        pl.col("sequence").cast(pl.Float64),
        pl.lit(None, dtype=pl.String).alias("event"),
        pl.lit(None, dtype=pl.String).alias("problem"),
        pl.lit(0).alias("source"),
        pl.int_range(pl.len()).alias(SOURCE_ROW),
    )
    seen: set[tuple[str, str, int | None, float | None]] = set()
    expected = []
    for row in rows:
        can_tell = row[3] is not None or row[2] == 1
        expected.append("duplicate" if row in seen and can_tell else None)
        seen.add(row)
    with TemporaryDirectory() as folder:
        flagged = flag_duplicates(PolarsEngine(Path(folder)), nw.from_native(events.lazy()))
        assert flagged.collect("polars").to_native().sort(SOURCE_ROW)["problem"].to_list() == expected


def test_an_id_is_the_same_however_a_file_writes_it(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    times = [START_MS + 1000 * place for place in range(8)]
    pl.DataFrame({"session_id": [7, 7], "item_id": [17.0, 18.0], "timestamp": times[:2]}).write_parquet(
        tmp_path / "log" / "1.parquet"
    )
    rows = [
        f"{session},{item},{time}"
        for session, item, time in zip([" 7", "7", "7.0", "7 "], ["17.0", "17", " 18", "NULL"], times[2:6], strict=True)
    ]
    (tmp_path / "log" / "2.csv").write_text("\n".join(["session_id,item_id,timestamp", *rows]))
    dataset = prepared([str(tmp_path / "log")])
    assert shown(dataset, "train") == {"7": "17 *18 *17 *17 *18"}
    assert dataset.info.dropped == {"missing item id": 1}
    assert dataset.info.account is not None
    assert dataset.info.account.remarks == ("3 events had ids with spaces at their ends, which were taken off",)


def test_a_log_of_the_test_part_shares_the_ids_of_the_first(prepared: Prepare) -> None:
    dataset = prepared(log({"s1": "a b", "s2": "b c"}), test=log({"s2": "c a d", "s9": "b"}))
    assert shown(dataset, "test") == {"s2": "c *a *d", "s9": "b"}
    assert dataset.sessions("test").rows.tolist() == [3, 1, 0, 2]
