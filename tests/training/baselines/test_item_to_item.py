"""Co-occurrence is counted for some rows at a time, with the result of counting all pairs."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from onward.training.baselines import item_to_item
from onward.training.baselines.item_to_item import DECAY, REACH, ItemToItem
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import SplitKind
from tests.training.data.conftest import Prepare, log


def _random_sessions(tmp_path: Path) -> tuple[Dataset, list[list[str]]]:
    generator = np.random.default_rng(3)
    sessions = [[f"i{row}" for row in generator.integers(1, 12, generator.integers(2, 20))] for _ in range(60)]
    written = log({f"s{number:02}": " ".join(items) for number, items in enumerate(sessions)})
    return Prepare(tmp_path)(written, SplitKind.GIVEN, test=log({"t": "i1 i2"})), sessions


@pytest.mark.parametrize("events_at_once", [1, 40, 10_000])
def test_weights_are_those_of_all_pairs_however_many_are_counted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events_at_once: int
) -> None:
    dataset, sessions = _random_sessions(tmp_path)
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for items in sessions:
        for place, item in enumerate(items):
            for other in range(max(0, place - REACH), min(len(items), place + REACH + 1)):
                if other != place:
                    expected[item][items[other]] += 1 / abs(place - other)  # type: ignore[assignment]
    monkeypatch.setattr(item_to_item, "EVENTS_AT_ONCE", events_at_once)
    ranked = ItemToItem(dataset, "test").retrieve(["i3", "i7"], 50)
    weights = {item: expected["i7"][item] + DECAY * expected["i3"][item] for item in dataset.item_ids()}
    assert {item.item_id: item.score for item in ranked} == pytest.approx(
        {item: 1 + weight for item, weight in weights.items()}
    )


def test_only_the_heaviest_neighbours_of_an_item_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = _random_sessions(tmp_path)
    everything = ItemToItem(dataset, "test").retrieve(["i3"], 4)
    monkeypatch.setattr(item_to_item, "NEIGHBOURS", 4)
    assert ItemToItem(dataset, "test").retrieve(["i3"], 4) == everything
    assert [item.score > 1 for item in ItemToItem(dataset, "test").retrieve(["i3"], 6)] == [True] * 4 + [False] * 2
