"""Public data sets, counted as the papers count them. ONWARD_DATA names the folder that holds them."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset, PartName
from onward.training.data.preparation.prepare_options import SplitKind
from tests.training.data.conftest import Prepare, shown
from tests.training.data.readers.oracle import srgnn_split

REPOSITORY = Path(__file__).parents[4]
DATA = Path(os.environ.get("ONWARD_DATA", REPOSITORY.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"{DATA} is no folder; ONWARD_DATA can name the one with the data sets"
    ),
]


def examples(dataset: Dataset, *parts: PartName) -> int:
    return sum(dataset.info.parts[part].examples for part in parts)


@pytest.mark.parametrize(
    ("name", "train", "test", "items"),
    [("diginetica", 719_470, 60_858, 43_097), ("yoochoose1_64", 369_859, 55_898, 17_376)],
)
def test_given_splits_have_the_published_sizes(prepared: Prepare, name: str, train: int, test: int, items: int) -> None:
    """SR-GNN (AAAI 2019), table 1; the items of yoochoose1_64 are those of its training sessions."""
    source = DATA / name
    dataset = prepared([str(source / "train.parquet")], test=[str(source / "test.parquet")], validation=0.1)
    assert examples(dataset, "train", "validation") == train
    assert examples(dataset, "test") == test
    assert dataset.info.items == items
    assert dataset.info.dropped == {}


def diginetica_clicks(file: Path) -> Iterator[tuple[str, str, float, float]]:
    with file.open() as rows:
        for row in csv.DictReader(rows, delimiter=";"):
            day = datetime.strptime(row["eventdate"], "%Y-%m-%d").replace(tzinfo=UTC)
            yield row["session_id"], row["item_id"], float(row["timeframe"]), day.timestamp()


def yoochoose_clicks(file: Path) -> Iterator[tuple[str, str, float, float]]:
    with file.open() as rows:
        for session, time, item, _ in csv.reader(rows):
            seconds = datetime.fromisoformat(time).timestamp()
            yield session, item, seconds, seconds


@pytest.mark.parametrize(
    ("name", "clicks", "days"),
    [
        ("diginetica_train-item-views.csv", diginetica_clicks, 7),
        ("yoochoose-clicks.dat", yoochoose_clicks, 1),
    ],
)
def test_raw_layouts_are_split_as_srgnn_does(
    prepared: Prepare, name: str, clicks: Callable[[Path], Iterable[tuple[str, str, float, float]]], days: int
) -> None:
    raw = DATA / "raw_samples" / name
    train, test = srgnn_split(clicks(raw), test_span=86_400 * days, min_support=2)
    dataset = prepared([str(raw)], SplitKind.TEMPORAL, test_days=days, min_support=2)
    assert {name: items.replace("*", "").split() for name, items in shown(dataset, "train").items()} == train
    assert {name: items.replace("*", "").split() for name, items in shown(dataset, "test").items()} == test
    assert len(train) > 100
    assert len(test) > 20


def test_leave_one_out_keeps_every_user(prepared: Prepare) -> None:
    dataset = prepared([str(DATA / "amazon_grocery" / "interactions.parquet")], SplitKind.LEAVE_ONE_OUT)
    assert dataset.info.parts["test"].model_dump() == {
        "events": 151_254, "sessions": 14_681, "items": 8_713, "examples": 14_681,
    }  # fmt: skip


def test_the_split_by_user_is_8_1_1(prepared: Prepare) -> None:
    dataset = prepared([str(DATA / "ml1m" / "interactions.parquet")], SplitKind.BY_USER, min_support=5)
    assert [counts.sessions for counts in dataset.info.parts.values()] == [4_832, 604, 604]


def test_the_5_core_of_movielens_1m_has_the_items_of_published_rows(prepared: Prepare) -> None:
    """The sizes that asash/gSASRec-pytorch states: datasets/ml1m/dataset_stats.json."""
    source = DATA / "ml1m" / "interactions.parquet"
    dataset = prepared([str(source)], SplitKind.LEAVE_ONE_OUT, min_support=5)
    assert dataset.info.items == 3_416
    assert dataset.info.parts["test"].model_dump() == {
        "events": 999_611, "sessions": 6_040, "items": 3_416, "examples": 6_040,
    }  # fmt: skip
