"""One log in every format gives the same dataset."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.errors import InputError
from tests.training.data.conftest import Outcome, Prepare, log, shown

EVENTS = log({"1": "10 20 10", "2": "30 20", "3": "20 10"})


def as_jsonl(path: Path) -> None:
    EVENTS.with_columns(pl.col("item_id").cast(pl.Int64)).write_ndjson(path)


def as_recbole(path: Path) -> None:
    typed = {"session_id": "session_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
    EVENTS.with_columns(pl.col("timestamp") / 1000).rename(typed).write_csv(path, separator="\t")


def as_yoochoose(path: Path) -> None:
    time = pl.from_epoch("timestamp", "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    EVENTS.select("session_id", time, "item_id", category=pl.lit("0")).write_csv(path, include_header=False)


def as_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(EVENTS.write_csv().encode()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "events.parquet": EVENTS.write_parquet,
    "events.csv": EVENTS.write_csv,
    "semicolons.csv": lambda path: EVENTS.write_csv(path, separator=";", line_terminator="\r\n"),
    "with-mark.csv": lambda path: EVENTS.write_csv(path, include_bom=True),
    "quoted.csv": lambda path: EVENTS.write_csv(path, quote_style="always"),
    "events.tsv": lambda path: EVENTS.write_csv(path, separator="\t"),
    "events.jsonl": as_jsonl,
    "events.inter": as_recbole,
    "clicks.dat": as_yoochoose,
    "events.csv.gz": as_gzip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_dataset(prepared: Prepare, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    dataset = prepared([str(tmp_path / name)])
    assert dataset.info.fingerprint == prepared(EVENTS).info.fingerprint
    assert shown(dataset, "train") == {"1": "10 *20 *10", "2": "30 *20", "3": "20 *10"}
    assert dataset.info.dropped == {}


def test_raw_diginetica_is_ordered_by_timeframe_and_split_by_eventdate(prepared: Prepare, tmp_path: Path) -> None:
    raw = tmp_path / "train-item-views.csv"
    raw.write_text(
        "sessionId;userId;itemId;timeframe;eventdate\n"
        "1;NA;3;900;2016-05-09\n1;NA;1;50;2016-05-09\n1;NA;2;400;2016-05-09\n"
        "2;7;1;10;2016-05-19\n2;7;2;5;2016-05-19\n"
    )
    dataset = prepared([str(raw)], SplitKind.TEMPORAL, test_days=7)
    assert shown(dataset, "train") == {"1": "1 *2 *3"}
    assert shown(dataset, "test") == {"2": "2 *1"}


def test_an_unknown_user_of_diginetica_is_null(prepared: Prepare, tmp_path: Path) -> None:
    raw = tmp_path / "train-item-views.csv"
    rows = [f"{user};{user};{item};{item};2016-05-09" for user in ("NA", "7") for item in (1, 2, 3, 4)]
    raw.write_text("\n".join(["sessionId;userId;itemId;timeframe;eventdate", *rows]))
    dataset = prepared([str(raw)], SplitKind.LEAVE_ONE_OUT)
    assert shown(dataset, "test") == {"7": "1 2 3 *4"}
    assert dataset.info.dropped == {"missing user id": 4}


def test_a_folder_is_read_file_by_file(prepared: Prepare, tmp_path: Path) -> None:
    parts = tmp_path / "log"
    parts.mkdir()
    for number, part in enumerate((EVENTS[:4], EVENTS[4:])):
        part.write_csv(parts / f"part-{number}.csv")
    (parts / "_SUCCESS").touch()
    assert prepared([str(parts)]).info.fingerprint == prepared(EVENTS).info.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clicks.xyz", "a,b\n1,2\n", "clicks.xyz: cannot tell the format from '.xyz'; give --format"),
        ("empty.csv", "", "empty.csv: the first line is empty"),
        ("twice.csv", "session_id,item_id,item_id\n1,2,3\n", "the header names 'item_id' twice"),
        ("array.json", "[1]\n", "there is no JSON object in it"),
        ("no-item.csv", "session_id,what\n1,2\n", r"give --item-column \(the columns are session_id, what\)"),
        ("no-rows.csv", "session_id,item_id\n", "no usable event: the file has no rows"),
        ("not.parquet", "session_id,item_id\n1,2\n", "not.parquet: cannot be read as parquet"),
        ("users.csv", "user_id,item_id\n1,2\n", "sessions by idle gap need a time column"),
    ],
)
def test_an_unusable_file_is_an_error_of_one_line_that_says_what_to_do(
    tmp_path: Path, onward_training: Callable[..., Outcome], name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    outcome = onward_training(
        "prepare", tmp_path / name, "--out", tmp_path / "dataset", "--split", "given", "--min-support", 1
    )
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(last)
    assert not (tmp_path / "dataset").exists()


def test_a_missing_file_is_an_error_that_names_it(prepared: Prepare) -> None:
    with pytest.raises(InputError, match=r"nowhere.csv: there is no such file"):
        prepared(["nowhere.csv"])
