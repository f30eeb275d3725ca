import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from tests.training.data.conftest import Prepare, log

EVENTS = log({"s1": "a b a", "s2": "c", "s3": "b c"})


def test_a_dataset_reads_back_as_it_was_written(prepared: Prepare) -> None:
    dataset = prepared(EVENTS)
    sessions = dataset.sessions("train")
    assert sessions.rows.tolist() == [1, 2, 1, 3, 2, 3]
    assert sessions.offsets.tolist() == [0, 3, 4, 6]
    assert sessions.is_target.tolist() == [False, True, True, False, False, True]
    assert sessions.item_ids == list("abacbc")
    assert len(sessions) == 3
    assert sessions.rows.dtype == sessions.offsets.dtype == np.dtype(np.int64)
    assert dataset.popularity().tolist() == [0, 2, 2, 2]


def test_the_files_have_the_documented_columns(prepared: Prepare) -> None:
    folder = prepared(EVENTS).folder
    assert pl.read_parquet_schema(folder / "train.parquet") == {
        "session_id": pl.String,
        "position": pl.Int32,
        "item_id": pl.String,
        "row": pl.Int32,
        "timestamp_ms": pl.Int64,
        "is_target": pl.Boolean,
    }
    assert pl.read_parquet_schema(folder / "items.parquet") == {
        "row": pl.Int32,
        "item_id": pl.String,
        "popularity": pl.Int64,
    }
    assert sorted(file.name for file in folder.iterdir()) == ["dataset.json", "items.parquet", "train.parquet"]


def test_the_counts_match_the_rows(prepared: Prepare) -> None:
    info = prepared(EVENTS, test=log({"t1": "a x"})).info
    assert info.parts["train"].model_dump() == {"events": 6, "sessions": 3, "items": 3, "examples": 3}
    assert info.parts["test"].model_dump() == {"events": 2, "sessions": 1, "items": 2, "examples": 1}
    assert info.items == 3
    assert info.sources == ("events.parquet", "test.parquet")


def test_the_fingerprint_depends_on_the_rows_only(prepared: Prepare) -> None:
    fingerprint = prepared(EVENTS).info.fingerprint
    assert prepared(EVENTS).info.fingerprint == fingerprint
    assert prepared(log({"s1": "a b a", "s2": "c", "s3": "b a"})).info.fingerprint != fingerprint


def test_an_absent_part_is_empty(prepared: Prepare) -> None:
    sessions = prepared(EVENTS).sessions("test")
    assert (len(sessions), sessions.rows.tolist(), sessions.item_ids) == (0, [], [])


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a dataset, dataset.json cannot be read; make one with prepare"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"), [('"format_version": 1', '"format_version": 2'), ('"fingerprint"', '"print"'), ("{", "[")]
)
def test_a_dataset_of_another_version_is_refused(prepared: Prepare, before: str, after: str) -> None:
    file = prepared(EVENTS).folder / "dataset.json"
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(InputError, match=r"dataset.json: .*; prepare the dataset again"):
        Dataset.open(file.parent)


def test_a_part_that_cannot_be_read_is_refused(prepared: Prepare) -> None:
    dataset = prepared(EVENTS)
    (dataset.folder / "train.parquet").unlink()
    with pytest.raises(InputError, match=r"train.parquet: cannot be read"):
        dataset.sessions("train")


def test_a_file_that_was_edited_is_refused_when_it_is_read(prepared: Prepare) -> None:
    dataset = prepared(EVENTS)
    items, train = dataset.folder / "items.parquet", dataset.folder / "train.parquet"
    pl.read_parquet(train).with_columns(row=pl.lit(2, pl.Int32)).write_parquet(train)
    assert dataset.item_ids() == ["a", "b", "c"]
    with pytest.raises(
        InputError, match=r"train.parquet: has changed since `prepare` wrote it; prepare the dataset"
    ) as no:
        dataset.sessions("train")
    assert "\n" not in str(no.value)
    items.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"items.parquet: has changed since `prepare`"):
        Dataset.open(dataset.folder).item_ids()


def test_a_dataset_of_version_0_1_has_no_digests_and_is_read(prepared: Prepare) -> None:
    dataset = prepared(EVENTS)
    info = dataset.info.model_dump(mode="json")
    del info["digests"]
    (dataset.folder / "dataset.json").write_text(json.dumps(info))
    assert Dataset.open(dataset.folder).sessions("train").rows.tolist() == [1, 2, 1, 3, 2, 3]
