"""V-SKNN and VMIS-kNN: by hand, against a slow implementation of the definition, and on random walks."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.training.baselines import BASELINES
from onward.training.baselines.session_knn import SERENADE, V_SKNN, VMIS_KNN, SessionKNN, SessionKNNOptions
from onward.training.data.dataset import Dataset
from onward.training.evaluation.cases import cases_of
from onward.training.evaluation.evaluation import evaluate
from tests.training.data.conftest import Prepare
from tests.training.data.conftest import log as clicks

EVERY_ITEM = 60
"""Number of items of the walks."""


@pytest.fixture
def four_sessions(tmp_path: Path) -> Dataset:
    """Of four sessions two have a, two have b, three have c, one has d and one has e."""
    sessions = {"s1": "a b", "s2": "b c", "s3": "a c d", "s4": "c e"}
    return Prepare(tmp_path)(clicks(sessions), test=clicks({"t": "a b"}))


def votes(dataset: Dataset, options: SessionKNNOptions, *item_ids: str) -> dict[str, float]:
    """The votes of the ranked items, without items that have no vote."""
    ranking = SessionKNN(dataset, "test", options=options).retrieve(item_ids, EVERY_ITEM)
    return {item.item_id: item.score - 1 for item in ranking if item.score >= 1}


def test_v_sknn_by_hand(four_sessions: Dataset) -> None:
    """Of a, b the weights are (1/2)² and 1: s1, s2 and s3 vote with 1.25, 1 and 0.25 / 2, as s3 has but a."""
    assert votes(four_sessions, V_SKNN, "a", "b") == pytest.approx(
        {
            "a": (1.25 + 0.125) * (1 + 10 * log(4 / 2)),
            "b": (1.25 + 1) * (1 + 10 * log(4 / 2)),
            "c": (1 + 0.125) * (1 + 10 * log(4 / 3)),
            "d": 0.125 * (1 + 10 * log(4)),
        }
    )


def test_vmis_knn_by_hand(four_sessions: Dataset) -> None:
    """Of a, b the weights are 1/2 and 1: s1, s2 and s3 vote with 1.5 * 0.9, 1 * 0.9 and 0.5 * 0.8."""
    assert votes(four_sessions, VMIS_KNN, "a", "b") == pytest.approx(
        {
            "a": (1.35 + 0.4) * log(4 / 2),
            "b": (1.35 + 0.9) * log(4 / 2),
            "c": (0.9 + 0.4) * log(4 / 3),
            "d": 0.4 * log(4),
        }
    )


def test_serenade_by_hand(four_sessions: Dataset) -> None:
    """The votes of sessions are those of VMIS-kNN; the sessions have nine items together, and none is left out.

    Of the numbers of items 2, 2, 2 and 3 the quantile 0.995 is 2.985, rounded 3.
    """
    assert votes(four_sessions, SERENADE, "a", "b") == pytest.approx(
        {
            "a": (1.35 + 0.4) * log(9 / 2),
            "b": (1.35 + 0.9) * log(9 / 2),
            "c": (0.9 + 0.4) * log(9 / 3),
            "d": 0.4 * log(9),
        }
    )


@pytest.mark.parametrize(("options", "total"), [(VMIS_KNN, 3), (SERENADE, 6)])
def test_the_longest_sessions_neither_vote_nor_count(
    four_sessions: Dataset, options: SessionKNNOptions, total: int
) -> None:
    """Of the numbers of items the median is 2, so s3 with a, c and d is left out: three sessions, six items."""
    assert votes(four_sessions, replace(options, longest_quantile=0.5), "a", "b") == pytest.approx(
        {"a": 1.35 * log(total), "b": (1.35 + 0.9) * log(total / 2), "c": 0.9 * log(total / 2)}
    )


def test_a_repeated_item_counts_at_its_last_position(four_sessions: Dataset) -> None:
    """Of b, a, b the weights are 1 for b and 2/3 for a."""
    assert votes(four_sessions, VMIS_KNN, "b", "a", "b")["d"] == pytest.approx(2 / 3 * 0.8 * log(4))


def test_only_the_last_events_are_used(four_sessions: Dataset) -> None:
    options = replace(VMIS_KNN, last_events=1)
    assert votes(four_sessions, options, "e", "b") == votes(four_sessions, options, "b")


def test_only_the_most_recent_sessions_are_candidates(four_sessions: Dataset) -> None:
    """Of the three sessions with c the last two have no b."""
    assert votes(four_sessions, replace(V_SKNN, candidates=2), "c").keys() == {"a", "c", "d", "e"}


def test_among_equally_similar_sessions_the_more_recent_are_neighbours(four_sessions: Dataset) -> None:
    assert votes(four_sessions, replace(V_SKNN, neighbours=1), "c").keys() == {"c", "e"}


@pytest.mark.parametrize("item_ids", [[], ["never seen"]])
def test_without_a_known_item_the_most_popular_items_are_returned(four_sessions: Dataset, item_ids: list[str]) -> None:
    for name in ("v-sknn", "vmis-knn", "serenade"):
        ranking = BASELINES[name](four_sessions, "test").retrieve(item_ids, 5)
        assert ranking == BASELINES["popularity"](four_sessions, "test").retrieve(item_ids, 5)


def voted_slowly(sessions: list[set[str]], options: SessionKNNOptions, item_ids: list[str]) -> dict[str, float]:
    """The definition, session by session."""
    most = int(np.quantile([len(session) for session in sessions], options.longest_quantile) + 0.5)
    sessions = [session for session in sessions if len(session) <= most]
    events = item_ids[-options.last_events :] if options.last_events else item_ids
    steps_back = {item: len(events) - place for place, item in enumerate(events)}
    latest_first = sorted(steps_back, key=lambda item: steps_back[item])
    weight = {
        item: options.place_weight(np.array([(len(events) + 1 - steps) / len(events)]))[0]
        for item, steps in steps_back.items()
    }
    similarity, match = {}, {}
    for number in [s for s, items in enumerate(sessions) if items & steps_back.keys()][-options.candidates :]:
        shared = [item for item in latest_first if item in sessions[number]]
        similarity[number] = sum(weight[item] for item in shared)
        match[number] = options.match_weight(np.array([steps_back[shared[0]]]))[0]
    votes: dict[str, float] = {}
    for number in sorted(similarity, key=lambda number: (similarity[number], number))[-options.neighbours :]:
        for item in sessions[number]:
            votes[item] = votes.get(item, 0) + similarity[number] * match[number]
    total = len(sessions) if options.rarity_total == "sessions" else sum(map(len, sessions))
    rarity = {item: np.log(total / sum(item in session for session in sessions)) for item in votes}
    return {item: vote * options.item_weight(np.array([rarity[item]]))[0] for item, vote in votes.items()}


@settings(max_examples=60, deadline=None)
@given(
    options=st.builds(
        replace,
        st.sampled_from([V_SKNN, VMIS_KNN, SERENADE]),
        last_events=st.none() | st.integers(1, 6),
        candidates=st.integers(1, 300),
        neighbours=st.integers(1, 100),
        longest_quantile=st.sampled_from([0.3, 0.9, 1.0]),
    ),
    places=st.lists(st.integers(0, EVERY_ITEM - 1), min_size=1, max_size=12),
)
def test_votes_equal_those_of_the_definition(dataset: Dataset, options: SessionKNNOptions, places: list[int]) -> None:
    known = [part for part in (dataset.sessions("train"), dataset.sessions("validation")) if len(part)]
    sessions = [
        set(part.item_ids[start:end])
        for part in known
        for start, end in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]
    item_ids = [dataset.item_ids()[place] for place in places]
    assert votes(dataset, options, *item_ids) == pytest.approx(voted_slowly(sessions, options, item_ids))


def test_session_knn_beats_popularity_on_walks(dataset: Dataset) -> None:
    """The unordered items of sessions give the circle, but not the direction of the walk."""
    cases = list(cases_of(dataset.sessions("test"), together=False))
    recall = {
        name: evaluate(BASELINES[name](dataset, "test").retrieve, cases, items=EVERY_ITEM, ks=[3])["recall@3"]
        for name in ("popularity", "v-sknn", "vmis-knn")
    }
    assert recall["v-sknn"] > 0.5 > 0.2 > recall["popularity"]
    assert recall["vmis-knn"] > 0.5
