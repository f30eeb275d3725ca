"""The corpus of an encoder holds only the sessions that its fit may learn from."""

import numpy as np

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset, Sessions
from onward.training.run_folder import REFIT, SELECTION, sessions_of_fit
from tests.training.corpora import sessions

NONE = Sessions(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.bool_), np.empty(0, np.int64))


def test_popularity_counts_the_events_of_all_parts() -> None:
    corpus = Corpus(4, 0, (sessions([1, 2, 2]), sessions([2, 4])))
    assert corpus.popularity().tolist() == [0, 1, 3, 0, 1]


def test_items_unknown_to_training_are_not_counted() -> None:
    assert Corpus(2, 0, (sessions([1, 0, 0]),)).popularity().tolist() == [0, 1, 0]


def test_a_corpus_without_sessions_has_no_popularity() -> None:
    assert Corpus(3, 0, (NONE,)).popularity().tolist() == [0, 0, 0, 0]


def test_the_first_fit_has_training_only_and_the_refit_validation_too(dataset: Dataset) -> None:
    selection, refit = (Corpus.of(dataset, sessions_of_fit(dataset, fit)) for fit in (SELECTION, REFIT))
    training, validation = (dataset.info.parts[part].events for part in ("train", "validation"))
    assert selection.items == refit.items == len(dataset.item_ids())
    assert selection.users == refit.users == 0
    assert selection.popularity().sum() == training
    assert refit.popularity().sum() == training + validation
    assert refit.popularity().tolist() == dataset.popularity().tolist()
