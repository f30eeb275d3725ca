"""Ranking among sampled items: only items that the encoder knows count; a target that it does not know is a miss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onward.bundle import Bundle
from onward.training.data.dataset import Dataset
from onward.training.evaluation.cases import EvaluationCase, cases_of
from onward.training.evaluation.sampled_ranking import evaluate_sampled
from onward.training.export.rebuild import rebuild
from tests.bundles import item_ids, make_bundle

ITEM_IDS = item_ids("item-", 40)
MISS = {"hit_rate@10": 0, "ndcg@10": 0, "mrr": 0}


@pytest.fixture
def rebuilt(bundles: Path, tmp_path: Path) -> Bundle:
    """The bundle with an item that its encoder does not know."""
    changes = tmp_path / "changes.jsonl"
    changes.write_text('{"item_id": "new", "sequence": 1, "similar_to": ["item-0-3"]}\n')
    rebuild(bundles, changes=changes)
    return Bundle.load(bundles / "current")


@pytest.mark.parametrize("negatives", [5, 20])
def test_a_target_outside_the_catalog_is_a_miss(tmp_path: Path, negatives: int) -> None:
    bundle = make_bundle(tmp_path, ITEM_IDS)
    metrics = evaluate_sampled(bundle, [EvaluationCase(ITEM_IDS[:2], ["unknown"])], negatives=negatives, seed=0)
    assert metrics == {**MISS, "negatives": negatives}


def test_a_target_whose_score_is_nan_is_a_miss(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, ITEM_IDS)
    vectors_N1D = bundle.vectors_N1D.copy()
    vectors_N1D[bundle.catalog.row(ITEM_IDS[5])] = np.nan
    broken = replace(bundle, vectors_N1D=vectors_N1D)
    metrics = evaluate_sampled(broken, [EvaluationCase(ITEM_IDS[:2], [ITEM_IDS[5]])], negatives=20, seed=0)
    assert metrics == {**MISS, "negatives": 20}


def test_a_target_that_the_encoder_does_not_know_is_a_miss(rebuilt: Bundle) -> None:
    case = EvaluationCase(["item-0-1", "item-0-2"], ["new"])
    assert evaluate_sampled(rebuilt, [case], negatives=20, seed=0) == {**MISS, "negatives": 20}


@pytest.mark.parametrize("inputs", [["new", "item-0-1", "new"], ["new"]])
def test_new_items_of_a_rebuilt_bundle_change_nothing(exported: Path, rebuilt: Bundle, inputs: list[str]) -> None:
    """The session is read without them, and they are not sampled."""
    case, every_other = EvaluationCase(inputs, ["item-0-2"]), rebuilt.manifest.items - 3
    before, after = (
        evaluate_sampled(bundle, [case], negatives=every_other, seed=0)
        for bundle in (Bundle.load(exported / "current"), rebuilt)
    )
    assert after == before


def test_the_metrics_of_a_data_set_are_the_same_after_a_rebuild(
    exported: Path, rebuilt: Bundle, dataset: Dataset
) -> None:
    cases = list(cases_of(dataset.sessions("test"), together=False))
    before = evaluate_sampled(Bundle.load(exported / "current"), cases, negatives=20, seed=0)
    assert evaluate_sampled(rebuilt, cases, negatives=20, seed=0) == before
