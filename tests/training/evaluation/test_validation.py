"""Metrics of validation by exact scores."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from onward.bundle.search.retrieval import ExcludeSeen
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.evaluation import validation
from onward.training.evaluation.metrics import BEYOND
from onward.training.evaluation.validation import (
    BlockScores,
    block_ranks,
    exact_ranks,
    target_ranks,
    validation_metrics,
)
from onward.training.trained_run import fitted_last


def test_the_metrics_of_a_subset_are_means_over_its_examples(run: Path, dataset: Dataset) -> None:
    encoder = fitted_last(run, dataset).encoder
    examples = Examples.of([dataset.sessions("validation")], encoder.max_length, torch.device("cpu"))
    subset = examples.subset(torch.arange(0, len(examples), 3))
    ranks_E = exact_ranks(encoder, subset, exclude_seen=False)
    metrics = validation_metrics(encoder, subset, "recall@5", exclude_seen=False)
    assert metrics["recall@5"] == pytest.approx(np.mean(ranks_E <= 5))
    assert metrics["mrr@5"] == pytest.approx(np.mean(np.where(ranks_E <= 5, 1 / ranks_E, 0)))


def _random_scores(generator: torch.Generator, *, whole_numbers: bool) -> tuple[BlockScores, Tensor]:
    """Scores of 50 rows, with ties across blocks if numbers are whole, and the targets of 40 examples."""
    shape = {"interests": (40, 2, 3), "vectors": (50, 3), "added": (40, 50)}
    drawn = {
        name: torch.randint(-2, 3, size, generator=generator).float()
        if whole_numbers
        else torch.randn(size, generator=generator)
        for name, size in shape.items()
    }
    drawn["vectors"][[11, 23, 47]] = drawn["vectors"][3].clone()
    hidden_BS = torch.randint(0, 50, (40, 4), generator=generator)
    targets_B = torch.randint(1, 50, (40,), generator=generator)
    hidden_BS[:3, 0] = targets_B[:3]
    return BlockScores(drawn["interests"], drawn["vectors"], drawn["added"], hidden_BS), targets_B


@pytest.mark.parametrize("whole_numbers", [True, False])
@pytest.mark.parametrize("most_near", [validation.MOST_NEAR_TARGET, 0])
def test_ranks_counted_by_blocks_are_those_of_all_scores_at_once(
    monkeypatch: pytest.MonkeyPatch, whole_numbers: bool, most_near: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        scores, targets_B = _random_scores(generator, whole_numbers=whole_numbers)
        monkeypatch.setattr(validation, "ITEM_BLOCK", 50)
        ((_, scores_BN),) = scores.blocks()
        expected_B = target_ranks(scores_BN, targets_B)
        assert (expected_B[:3] == BEYOND).all()  # hidden
        monkeypatch.setattr(validation, "ITEM_BLOCK", 8)
        monkeypatch.setattr(validation, "MOST_NEAR_TARGET", most_near)  # 0: every example takes two passes
        assert torch.equal(block_ranks(scores, targets_B), expected_B)


def test_a_score_that_is_no_number_ranks_nowhere_and_nothing_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ITEM_BLOCK", 2)
    vectors_ND = torch.tensor([[0.0], [1.0], [torch.nan], [3.0], [2.0]])
    ranks = [int(block_ranks(BlockScores(torch.ones(1, 1, 1), vectors_ND), torch.tensor([row]))) for row in range(1, 5)]
    assert ranks == [3, BEYOND, 1, 2]


def test_an_encoder_is_ranked_alike_whatever_the_size_of_a_block(
    run: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fitted_last(run, dataset).encoder
    examples = Examples.of([dataset.sessions("validation")], encoder.max_length, torch.device("cpu"))
    choices: tuple[ExcludeSeen, ...] = (False, "last", True)
    for exclude_seen in choices:
        monkeypatch.setattr(validation, "ITEM_BLOCK", 2**16)
        expected_E = exact_ranks(encoder, examples, exclude_seen=exclude_seen)
        monkeypatch.setattr(validation, "ITEM_BLOCK", 16)
        assert (exact_ranks(encoder, examples, exclude_seen=exclude_seen) == expected_E).all()
