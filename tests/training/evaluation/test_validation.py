"""Metrics of validation by exact scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.evaluation.validation import exact_ranks, validation_metrics
from onward.training.trained_run import fitted_last


def test_the_metrics_of_a_subset_are_means_over_its_examples(run: Path, dataset: Dataset) -> None:
    encoder = fitted_last(run, dataset).encoder
    examples = Examples.of([dataset.sessions("validation")], encoder.max_length, torch.device("cpu"))
    subset = examples.subset(torch.arange(0, len(examples), 3))
    ranks_E = exact_ranks(encoder, subset, exclude_seen=False)
    metrics = validation_metrics(encoder, subset, "recall@5", exclude_seen=False)
    assert metrics["recall@5"] == pytest.approx(np.mean(ranks_E <= 5))
    assert metrics["mrr@5"] == pytest.approx(np.mean(np.where(ranks_E <= 5, 1 / ranks_E, 0)))
