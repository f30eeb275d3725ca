"""The validation examples that candidates and baselines are compared on, and their metrics for each example.

Dimension key: E examples.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from onward.bundle.search.retrieval import ExcludeSeen
from onward.training.atomic_file import replacement
from onward.training.baselines import BASELINES
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.errors import InputError
from onward.training.evaluation.cases import held_out_cases, one_by_one, session_of_cases
from onward.training.evaluation.evaluation import by_session, ranked_cases, without_excluded
from onward.training.evaluation.paired_test import example_values, ndcg_values
from onward.training.evaluation.validation import exact_ranks
from onward.training.models.encoder import SessionEncoder
from onward.training.progress import counting

K = 20
NEWEST_SESSIONS = 5_000

Values = Mapping[str, NDArray[np.float64]]
"""Metrics of each example, (E,), by their names."""


class ComparedExamples:
    """The examples of the newest validation sessions."""

    def __init__(self, dataset: Dataset, exclude_seen: ExcludeSeen) -> None:
        """Choose the examples. Raises InputError if the dataset has no validation part, or one session in it."""
        self._dataset, self._exclude_seen = dataset, exclude_seen
        self._together = dataset.info.targets == "together"
        sessions = dataset.sessions("validation")
        cases = held_out_cases(dataset, "validation")
        session_E = session_of_cases(sessions, together=self._together)
        newest = np.unique(session_E)[-NEWEST_SESSIONS:]
        if len(newest) < 2:
            raise InputError(
                f"{dataset.folder}: one validation session is too few to compare candidates; hold out more"
            )
        self._first = int(np.searchsorted(session_E, newest[0]))
        self._cases = cases[self._first :]
        self.session_E = session_E[self._first :]
        self._sessions = sessions

    def __len__(self) -> int:
        return len(self._cases)

    def of_encoder(self, encoder: SessionEncoder) -> Values:
        """Compute the metrics of an encoder by exact scores."""
        examples = Examples.of([self._sessions], encoder.max_length, torch.device("cpu"), together=self._together)
        examples = examples.subset(torch.nonzero(examples.groups_E >= self._first).squeeze(1))
        groups_E = examples.groups_E.numpy()
        ranks_E = exact_ranks(encoder, examples, exclude_seen=self._exclude_seen)
        starts = np.flatnonzero(np.diff(groups_E)) + 1
        return _values([ranks.tolist() for ranks in np.split(ranks_E, starts)])

    def of_baseline(self, name: str) -> Values:
        """Compute the metrics of a baseline, which counts the training part."""
        retrieve = without_excluded(BASELINES[name](self._dataset, "validation").retrieve, self._exclude_seen)
        with counting(name, len(self._cases)) as count:
            rankings = ranked_cases(one_by_one(by_session(retrieve)), self._cases, K, on_answer=count)
        return _values(rankings.ranks)


def means(values: Values) -> dict[str, float]:
    """Return the mean of each metric over the examples."""
    return {name: float(of.mean()) for name, of in values.items()}


def write_values(values: Values, file: Path) -> None:
    """Write metrics of each example to a file of NumPy's."""
    with replacement(file) as temporary, temporary.open("wb") as content:
        np.savez(content, allow_pickle=False, **values)


def read_values(file: Path) -> Values:
    """Read metrics of each example. Raises InputError if the file is damaged."""
    try:
        with np.load(file) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: is damaged; remove its folder and fit again") from error


def _values(ranks: list[list[int]]) -> Values:
    return {**example_values(ranks, K), f"ndcg@{K}": ndcg_values(ranks, K)}
