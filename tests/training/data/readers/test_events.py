from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import DEFAULT_NULLS, Dialect
from onward.training.errors import InputError
from tests.training.data.conftest import DAY_MS, START_MS, Prepare, log, shown

NOON = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
NOON_MS = 1_709_209_815_250


def first_time(prepared: Prepare, frame: pl.DataFrame) -> int | None:
    dataset = prepared(frame)
    time = pl.read_parquet(dataset.folder / "train.parquet")["timestamp_ms"][0]
    return None if time is None else int(time)


@pytest.mark.parametrize(
    ("time", "expected_ms"),
    [
        (NOON_MS // 1000, NOON_MS - 250),
        (NOON_MS, NOON_MS),
        (NOON_MS * 1000 + 7, NOON_MS),
        (NOON_MS * 1_000_000, NOON_MS),
        (NOON_MS / 1000, NOON_MS),
        (float(NOON_MS), NOON_MS),
        (str(NOON_MS), NOON_MS),
        (f"{NOON_MS / 1000}", NOON_MS),
        ("2024-02-29T12:30:15.250Z", NOON_MS),
        ("2024-02-29 12:30:15.25", NOON_MS),
        ("2024-02-29T14:30:15.250+02:00", NOON_MS),
        ("2024-02-29T07:00:15.250-0530", NOON_MS),
        ("2024-02-29 12:30", NOON_MS - 15_250),
        ("2024-02-29", NOON_MS - 45_015_250),
        (date(2024, 2, 29), NOON_MS - 45_015_250),
        (NOON, NOON_MS),
        (NOON.replace(tzinfo=None), NOON_MS),
        (NOON.astimezone(timezone(timedelta(hours=9))), NOON_MS),
    ],
)
def test_times_of_every_type_become_epoch_milliseconds(prepared: Prepare, time: object, expected_ms: int) -> None:
    frame = pl.DataFrame({"session": ["s", "s"], "item": ["a", "b"], "time": [time, time]})
    assert first_time(prepared, frame) == expected_ms


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7, 12_345_678_901], "7 *12345678901"),
        ([7.0, 12_345_678_901.0], "7 *12345678901"),
        (["7.0", "007"], "7 *007"),
        (["é-1", "日本"], "é-1 *日本"),
    ],
)
def test_ids_of_any_type_become_text(prepared: Prepare, ids: list[object], expected: str) -> None:
    dataset = prepared(pl.DataFrame({"session_id": [1, 1], "item_id": ids}))
    assert shown(dataset, "train") == {"1": expected}


def test_categorical_ids_become_text(prepared: Prepare) -> None:
    ids = pl.Series(["a", "b"], dtype=pl.Categorical)
    assert shown(prepared(pl.DataFrame({"session_id": [1, 1], "item_id": ids})), "train") == {"1": "a *b"}


def test_a_column_of_booleans_is_refused_as_id(prepared: Prepare) -> None:
    with pytest.raises(InputError, match=r"column 'item_id' holds Boolean, which cannot be an id"):
        prepared(pl.DataFrame({"session_id": [1], "item_id": [True]}))


def test_a_list_of_ids_is_a_session(prepared: Prepare) -> None:
    frame = pl.DataFrame({"session_id": [1, 2, 3], "item_id": [["b", "a"], ["c", "b"], []]})
    dataset = prepared(frame)
    assert shown(dataset, "train") == {"1": "b *a", "2": "c *b"}
    assert dataset.info.dropped == {"missing item id": 1}


BAD = {
    "missing session id": ("", "a", START_MS),
    "unusable session id: an id may not have U+0007, a control character": ("s\x07", "a", START_MS),
    "missing item id": ("s1", None, START_MS),
    "unusable item id: an id has 1 to 128 characters": ("s1", "x" * 129, START_MS),
    "missing time": ("s1", "a", None),
    "time before 1990": ("s1", "a", 1234),
    "time in the future": ("s1", "a", 9_000_000_000_000),
    "duplicate": ("s1", "a", START_MS + 1),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unusable_row_is_dropped_and_reported(prepared: Prepare, kind: str) -> None:
    rows = [("s1", "a", START_MS + 1), ("s1", "b", START_MS + 2), BAD[kind], ("s2", "a", START_MS + 3), BAD[kind]]
    dataset = prepared(pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp"], orient="row"))
    assert shown(dataset, "train") == {"s1": "a *b", "s2": "a"}
    (problem,) = dataset.info.problems
    assert (problem.kind, problem.file, problem.count, problem.first_rows) == (kind, "events.parquet", 2, (3, 5))
    assert dataset.info.dropped == {kind: 2}


def test_text_that_is_no_time_is_a_problem_and_an_empty_line_is_not(prepared: Prepare, tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text(
        "session_id,item_id,time\ns1,a,2024-01-01 10:00\n\ns1,b,2024-02-30\ns1,c,yesterday\ns1,d\ns1,e,1704103300\n"
    )
    dataset = prepared([str(file)])
    assert shown(dataset, "train") == {"s1": "a *e"}
    assert [str(problem) for problem in dataset.info.problems] == [
        "clicks.csv row 5: missing time (1)",
        "clicks.csv rows 3, 4: unreadable time (2)",
    ]


def test_invalid_json_lines_are_problems(prepared: Prepare, tmp_path: Path) -> None:
    file = tmp_path / "clicks.jsonl"
    lines = [b'{"session_id": 1, "item_id": "a"}', b'{"session_id": 1, "item', b'{"session_id": 1, "item_id": "\xff"}']
    file.write_bytes(b"\n".join([*lines, lines[0]]))
    dataset = prepared([str(file)])
    assert shown(dataset, "train") == {"1": "a *a"}
    assert {(problem.kind, problem.first_rows) for problem in dataset.info.problems} == {
        ("no JSON object", (2,)),
        ("unusable item id: an id may not have U+FFFD, which stands for bytes that were not UTF-8", (3,)),
    }


def test_clicks_repeated_later_or_on_the_same_day_are_no_duplicates(prepared: Prepare) -> None:
    later = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "a"], "timestamp": [START_MS + 1, START_MS + 2]})
    assert shown(prepared(later), "train") == {"1": "a *a"}
    same_day = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "a"], "timestamp": [START_MS + DAY_MS] * 2})
    assert shown(prepared(same_day), "train") == {"1": "a *a"}
    without_time = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "a"]})
    assert shown(prepared(without_time), "train") == {"1": "a *a"}


def test_files_must_agree_on_their_columns(prepared: Prepare, tmp_path: Path) -> None:
    frame = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "b"], "timestamp": [START_MS, START_MS + 1]})
    files = [prepared.file(frame, "with"), prepared.file(frame.drop("timestamp"), "without")]
    with pytest.raises(InputError, match=r"without.parquet: unlike .*with.parquet in its time column"):
        prepared(files)


TYPED = {"view": "a", "cart": "b", "purchase": "c", "impression": "d", "bounce": "e"}


def typed() -> pl.DataFrame:
    rows = [("s", item, START_MS + place, kind) for place, (kind, item) in enumerate(TYPED.items())]
    return pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp", "event_type"], orient="row")


def test_types_of_events_are_kept_but_impressions_and_bounces(prepared: Prepare) -> None:
    dataset = prepared(typed())
    assert shown(dataset, "train") == {"s": "a *b *c"}
    assert dataset.info.dropped == {"event type bounce": 1, "event type impression": 1}
    assert dataset.info.problems == ()
    events = pl.read_parquet(dataset.folder / "train.parquet")
    assert events["event"].to_list() == ["view", "cart", "purchase"]
    assert "weight" not in events.columns


def test_weights_choose_types_and_are_kept(prepared: Prepare) -> None:
    dataset = prepared(typed(), weights={"view": 1.0, "purchase": 5.0, "impression": 0.5, "bounce": 0.0})
    assert shown(dataset, "train") == {"s": "a *c *d"}
    assert dataset.info.dropped == {"event type cart, not in --weights": 1, "weight of 0 or less": 1}
    events = pl.read_parquet(dataset.folder / "train.parquet")
    assert events["weight"].to_list() == [1.0, 5.0, 0.5]
    assert events["event"].to_list() == ["view", "purchase", "impression"]


def test_another_column_of_types_can_be_named(prepared: Prepare) -> None:
    frame = typed().rename({"event_type": "what"})
    assert shown(prepared(frame), "train") == {"s": "a *b *c *d *e"}
    assert shown(prepared(frame, columns=ColumnNames(event="what")), "train") == {"s": "a *b *c"}


def test_time_counts_where_a_guessed_position_disagrees(prepared: Prepare) -> None:
    rows = [("s", "a", START_MS, 3), ("s", "b", START_MS + 1, 2), ("s", "c", START_MS + 2, None)]
    frame = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp", "position"], orient="row")
    dataset = prepared(frame)
    assert shown(dataset, "train") == {"s": "a *b *c"}
    assert dataset.info.account is not None
    assert dataset.info.account.remarks == (
        "'position' and 'timestamp' disagree in 1 sessions: events are in order of 'timestamp'; "
        "--position-column position for that",
    )
    named = prepared(frame, columns=ColumnNames(position="position"))
    assert shown(named, "train") == {"s": "b *a"}
    assert named.info.dropped == {"missing or unreadable position": 1}


def test_a_guessed_position_orders_events_of_one_time(prepared: Prepare) -> None:
    rows = [("s", "a", START_MS, 2), ("s", "b", START_MS, 1), ("s", "c", START_MS + 2, 1)]
    frame = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp", "position"], orient="row")
    assert shown(prepared(frame), "train") == {"s": "b *a *c"}


def test_items_of_a_cell_are_a_session(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("session_id,items\n1,b|a\n2,\n3,c|b|c\n")
    dataset = prepared([str(tmp_path / "log.csv")], item_separator="|")
    assert shown(dataset, "train") == {"1": "b *a", "3": "c *b *c"}
    assert dataset.info.dropped == {"missing item id": 1}


@pytest.mark.parametrize("nulls", [("",), DEFAULT_NULLS, ("", "-")])
def test_texts_of_missing_values_are_an_option(prepared: Prepare, tmp_path: Path, nulls: tuple[str, ...]) -> None:
    ids = ["", "NULL", "null", r"\N", "nan", "NaN", "NA", "-"]
    (tmp_path / "log.csv").write_text("session_id,item_id\n" + "".join(f"1,{item}\n" for item in ids))
    dataset = prepared([str(tmp_path / "log.csv")], dialect=Dialect(nulls=nulls))
    assert sorted(dataset.item_ids()) == sorted(set(ids) - set(nulls))
    assert dataset.info.dropped == {"missing item id": len({*ids} & {*nulls})}


def test_items_that_training_never_saw_are_counted(prepared: Prepare) -> None:
    dataset = prepared(log({"1": "a b"}), test=log({"2": "a x y"}))
    assert dataset.info.account is not None
    assert dataset.info.account.remarks == ("test: 2 of 3 events are of items that training never saw",)
