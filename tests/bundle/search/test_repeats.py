"""Repeats in a bundle, alone and beside nearest sessions, against scores of all items."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.bundle import Boost, Bundle, Filter, Options, RetrievalQuery, SessionView
from tests.bundle.search.test_nearest_sessions import IDS, ITEMS, SESSIONS, all_scores, best, ids, walks
from tests.bundles import make_bundle

BONUSES = (0.5, 2.0, 1.0)


@pytest.fixture(scope="module", params=["alone", "beside sessions"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(
        tmp_path_factory.mktemp("bundle"),
        IDS,
        index="IVF8,Flat",
        nprobe=8,
        attributes=[{"price": row, "category": f"c{row % 7}"} for row in range(1, ITEMS + 1)],
        available=np.arange(ITEMS + 1) % 9 != 1,
        past_sessions=walks(600) if request.param == "beside sessions" else (),
        session_weight=0.2,
        repeats=BONUSES,
    )


def expected_scores(bundle: Bundle, rows: list[int]) -> NDArray[np.float64]:
    """The score of every row: that of the bundle without repeats, and the bonus of the latest event of the row."""
    scores_N1 = all_scores(replace(bundle, manifest=bundle.manifest.model_copy(update={"repeats": None})), rows)
    for row in set(rows):
        steps_back = rows[::-1].index(row)
        scores_N1[row] += BONUSES[min(steps_back, len(BONUSES) - 1)]
    return scores_N1


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("k", [1, 20, 390])
@pytest.mark.parametrize("session", [*SESSIONS, [2, 5, 2, 6]], ids=str)
def test_answers_hold_the_best_of_all_items_by_any_filter(
    bundle: Bundle, session: list[int], k: int, exact: bool
) -> None:
    scores_N1 = expected_scores(bundle, session)
    np.testing.assert_allclose(all_scores(bundle, session), scores_N1, atol=1e-6)
    for cheapest in (0, 5, 300):
        eligible_N1 = np.array(bundle.catalog.available_N1)
        eligible_N1[[0, *range(1, cheapest)]] = False
        dearer = Filter.model_validate({"attribute": "price", "range": {"min": cheapest}})
        answer = bundle.retrieve(SessionView(ids(session)), Options(k, filter=dearer, exact=exact))
        assert list(answer.items.item_ids) == best(scores_N1, eligible_N1, k)
        rows = [bundle.catalog.row(item_id) or 0 for item_id in answer.items.item_ids]
        assert answer.items.scores == pytest.approx(scores_N1[rows].tolist(), abs=1e-5)


def test_items_that_are_left_out_stay_out_and_boosts_add_up(bundle: Bundle) -> None:
    session = [7, 8, 9]
    scores_N1 = expected_scores(bundle, session)
    eligible_N1 = np.array(bundle.catalog.available_N1)
    for seen, hidden in (("last", [9]), (True, session)):
        visible_N1 = eligible_N1.copy()
        visible_N1[hidden] = False
        answer = bundle.retrieve(SessionView(ids(session)), Options(20, exclude_seen=seen))  # type: ignore[arg-type]
        assert list(answer.items.item_ids) == best(scores_N1, visible_N1, 20)
    boosted = Filter.model_validate({"attribute": "category", "equals": "c3"})
    answer = bundle.retrieve(SessionView(ids(session)), Options(20, boosts=(Boost(boosted, 5.0),)))
    scores_N1 = scores_N1 + np.log(5) * (np.arange(ITEMS + 1) % 7 == 3)
    assert list(answer.items.item_ids) == best(scores_N1, eligible_N1, 20)


def test_a_batch_a_rank_and_an_explanation_agree_with_the_answer(bundle: Bundle) -> None:
    session = SessionView(ids([7, 8, 9, 7]))
    query = RetrievalQuery(session, Options(ITEMS, exact=True))
    whole = bundle.retrieve(session, query.options).items
    assert bundle.retrieve_all([query, query])[1].items == whole
    assert bundle.item_rank(IDS[7], query).rank == 1 + whole.item_ids.index(IDS[7])
    contributions = bundle.contributions(query, [IDS[7]])[IDS[7]]
    scores_N1, without_N1 = expected_scores(bundle, [7, 8, 9, 7]), expected_scores(bundle, [7, 8, 9])
    assert contributions[3] == pytest.approx(scores_N1[8] - without_N1[8], abs=1e-4)


def test_other_bundles_have_no_field_that_earlier_revisions_would_refuse(tmp_path: Path) -> None:
    make_bundle(tmp_path, IDS)
    assert "repeats" not in json.loads((tmp_path / "manifest.json").read_text())
