"""Nearest sessions in a bundle: compiled and by NumPy, against scores of all items, with every option of a request."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.bundle import (
    Boost,
    Bundle,
    BundleError,
    Filter,
    ItemChange,
    Manifest,
    NearestSessions,
    Options,
    Pin,
    RetrievalQuery,
    SessionView,
    read_manifest,
    write_manifest,
)
from onward.bundle.files.manifest import (
    NEAREST_COUNTS,
    NEAREST_ITEMS,
    NEAREST_ITEMS_OFFSETS,
    NEAREST_SESSIONS,
    NEAREST_SESSIONS_OFFSETS,
)
from tests.bundles import add_probes, item_ids, make_bundle, write_files

ITEMS = 400
IDS = item_ids("i", ITEMS)
SESSIONS = [[7, 8, 9], [1], [30, 31], [400, 399, 5, 4], [7, 7, 2, 8, 9, 10]]


def walks(count: int, seed: int = 3) -> list[list[int]]:
    random = np.random.default_rng(seed)
    starts = (ITEMS * random.random(count) ** 2).astype(int)
    return [
        ((start + np.cumsum(random.integers(-2, 4, size=random.integers(2, 9)))) % ITEMS + 1).tolist()
        for start in starts
    ]


@pytest.fixture(
    scope="module",
    params=[("Flat", None, 1.0, 0.0), ("Flat", None, 0.01, 0.0), ("IVF8,Flat", 8, 0.2, 0.4)],
    ids=str,
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Bundles in which sessions count for much, for little, and beside an index of lists with votes for repeats."""
    index, nprobe, weight, repeat_share = request.param
    return make_bundle(
        tmp_path_factory.mktemp("bundle"),
        IDS,
        index=index,
        nprobe=nprobe,
        attributes=[{"price": row, "category": f"c{row % 7}"} for row in range(1, ITEMS + 1)],
        available=np.arange(ITEMS + 1) % 9 != 1,
        past_sessions=walks(600),
        session_weight=weight,
        repeat_share=repeat_share,
    )


def ids(rows: Sequence[int]) -> list[str]:
    return [IDS[row - 1] for row in rows]


def all_scores(bundle: Bundle, rows: Sequence[int]) -> NDArray[np.float64]:
    """The score of every row: its inner product and what the sessions add."""
    products_N1 = bundle.vectors_N1D @ bundle.encoder.encode(rows)[0]
    scores_N1: NDArray[np.float64] = products_N1 + bundle.votes_for(ids(rows), np.arange(ITEMS + 1))
    return scores_N1


def best(scores_N1: NDArray[np.float64], eligible_N1: NDArray[np.bool_], k: int) -> list[str]:
    rows = np.flatnonzero(eligible_N1)
    return ids(rows[np.argsort(-scores_N1[rows], kind="stable")[:k]].tolist())


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("k", [1, 20, 390])
@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_answers_hold_the_best_of_all_items(bundle: Bundle, session: list[int], k: int, exact: bool) -> None:
    available_N1 = np.array(bundle.catalog.available_N1)
    answer = bundle.retrieve(SessionView(ids(session)), Options(k, exact=exact))
    scores_N1 = all_scores(bundle, session)
    assert list(answer.items.item_ids) == best(scores_N1, available_N1, k)
    assert set(answer.items.sources) == {"encoder"}
    rows = [bundle.catalog.row(item_id) or 0 for item_id in answer.items.item_ids]
    assert answer.items.scores == pytest.approx(scores_N1[rows].tolist(), abs=1e-5)


@pytest.mark.parametrize("cheapest", [5, 300])
@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_filter_exclusions_and_seen_items_hold_and_leave_k_items(
    bundle: Bundle, session: list[int], cheapest: int
) -> None:
    options = Options(
        20,
        filter=Filter.model_validate({"attribute": "price", "range": {"min": cheapest}}),
        exclude=["i9", "i31"],
        exclude_seen=True,
    )
    answer = bundle.retrieve(SessionView(ids(session), hidden=["i32"]), options)
    eligible_N1 = np.array(bundle.catalog.available_N1)
    eligible_N1[[*range(cheapest), 9, 31, 32, *session]] = False
    assert list(answer.items.item_ids) == best(all_scores(bundle, session), eligible_N1, 20)
    assert answer.eligible == np.count_nonzero(eligible_N1)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_boosts_add_to_scores_and_pins_hold(bundle: Bundle, session: list[int], exact: bool) -> None:
    boosted = Filter.model_validate({"attribute": "category", "equals": "c3"})
    options = Options(10, boosts=(Boost(boosted, 5.0),), pins=(Pin("i102", 3),), exact=exact)
    answer = bundle.retrieve(SessionView(ids(session)), options)
    scores_N1 = all_scores(bundle, session) + np.log(5) * (np.arange(ITEMS + 1) % 7 == 3)
    eligible_N1 = np.array(bundle.catalog.available_N1)
    eligible_N1[102] = False
    expected = best(scores_N1, eligible_N1, 9)
    assert list(answer.items.item_ids) == [*expected[:2], "i102", *expected[2:]]
    bases = [item.details.base_score for item in answer.items if item.details is not None]
    rows = [bundle.catalog.row(item_id) or 0 for item_id in answer.items.item_ids]
    assert bases == pytest.approx(all_scores(bundle, session)[rows].tolist(), abs=1e-5)


def test_diversity_chooses_among_the_best(bundle: Bundle) -> None:
    session = SessionView(ids([7, 8, 9]))
    plain, diverse = (bundle.retrieve(session, Options(10, diversity=weight)) for weight in (0, 1))
    categories = [
        len({bundle.attributes(item_id)["category"] for item_id in answer.items.item_ids})
        for answer in (plain, diverse)
    ]
    assert categories[1] >= categories[0]
    assert len(diverse.items) == 10


def test_the_rank_of_an_item_is_its_place_in_the_whole_list(bundle: Bundle) -> None:
    query = RetrievalQuery(SessionView(ids([7, 8, 9])), Options(ITEMS, exact=True))
    whole = bundle.retrieve(query.session, query.options).items
    for place in (0, 5, 200):
        rank = bundle.item_rank(whole.item_ids[place], query)
        assert rank.rank == place + 1
        assert rank.score == pytest.approx(whole.scores[place], abs=1e-5)


def test_an_event_contributes_what_the_score_loses_without_it(bundle: Bundle) -> None:
    session = [7, 8, 9, 7]
    shown = bundle.retrieve(SessionView(ids(session)), Options(5)).items.item_ids
    contributions = bundle.contributions(RetrievalQuery(SessionView(ids(session))), shown)
    with_all = all_scores(bundle, session)
    for place in range(len(session)):
        without = all_scores(bundle, session[:place] + session[place + 1 :])
        for item_id in shown:
            row = bundle.catalog.row(item_id)
            assert contributions[item_id][place] == pytest.approx(with_all[row] - without[row], abs=1e-4)


def test_a_new_item_shares_the_votes_for_the_item_it_is_like(bundle: Bundle) -> None:
    session = SessionView(ids([7, 8, 9]))
    first = bundle.retrieve(session, Options(1)).items
    row = bundle.catalog.row(first.item_ids[0])
    twin = ItemChange("twin", 1, vector_D=bundle.vectors_N1D[row])
    changed = bundle.with_changes([twin, ItemChange("other", 2, vector_D=-bundle.vectors_N1D[row])])
    answer = changed.retrieve(session, Options(2)).items
    assert set(answer.item_ids) == {first.item_ids[0], "twin"}
    assert changed.retrieve(session, Options(2, exact=True)).items.item_ids == answer.item_ids
    deleted = changed.with_changes([twin, ItemChange(first.item_ids[0], 3, deleted=True)])
    assert deleted.retrieve(session, Options(1)).items.item_ids == ("twin",)


def test_a_session_without_known_items_is_answered_as_by_any_bundle(bundle: Bundle) -> None:
    assert set(bundle.retrieve(SessionView(["unheard of"]), Options(5)).items.sources) == {"popular"}


def test_queries_of_a_batch_are_answered_as_alone(bundle: Bundle) -> None:
    queries = [RetrievalQuery(SessionView(ids(session)), Options(10)) for session in SESSIONS]
    for query, answer in zip(queries, bundle.retrieve_all(queries), strict=True):
        assert answer.items.item_ids == bundle.retrieve(query.session, query.options).items.item_ids


@pytest.mark.parametrize("session", [*SESSIONS, [7, 8, 7, 9, 7, 300], []], ids=str)
def test_items_of_the_session_get_their_share_of_the_votes(bundle: Bundle, session: list[int]) -> None:
    assert bundle.nearest_sessions is not None
    info = bundle.nearest_sessions.info.model_copy(update={"repeat_share": 0.25})
    nearest = NearestSessions(bundle.nearest_sessions._stored, info)
    rows_V, votes_V = nearest.votes(session)
    compared = session[-info.last_events :]
    weights = {row: sum(1 / steps for steps, of in enumerate(compared[::-1], 1) if of == row) for row in compared}
    expected = {row: 0.75 * votes / votes_V.sum() for row, votes in zip(rows_V.tolist(), votes_V.tolist(), strict=True)}
    for row, weight in weights.items():
        expected[row] = expected.get(row, 0) + 0.25 * weight / sum(weights.values())
    bonus = nearest.bonus(rows_V, votes_V, session)
    assert dict(zip(bonus.rows_V.tolist(), bonus.shares_V.tolist(), strict=True)) == pytest.approx(expected)
    assert bonus.shares_V.sum() == pytest.approx((0.75 if len(rows_V) else 0) + (0.25 if session else 0))


@pytest.mark.parametrize("sizes", [(60, 25), (10, 3), (7, 60), (1, 1)])
@pytest.mark.parametrize("form", [(1, "linear"), (2, "reciprocal")])
def test_compiled_code_gives_the_votes_of_numpy(bundle: Bundle, sizes: tuple[int, int], form: tuple[int, str]) -> None:
    pytest.importorskip("numba")
    assert bundle.nearest_sessions is not None
    values = {"candidates": sizes[0], "neighbours": sizes[1], "place_power": form[0], "match": form[1]}
    info = bundle.nearest_sessions.info.model_copy(update={**values, "last_events": 12})
    slow, fast = (NearestSessions(bundle.nearest_sessions._stored, info) for _ in range(2))
    fast.accelerate([[1, 2]])
    assert fast.engine == "kernel"
    for session in [*SESSIONS, *walks(300, seed=4), list(range(1, 60)), [ITEMS + 1]]:
        (rows, votes), (expected_rows, expected) = fast.votes(session), slow.votes(session)
        order = np.argsort(rows)
        np.testing.assert_array_equal(rows[order], expected_rows)
        np.testing.assert_array_equal(votes[order], expected)


def test_a_bundle_searches_by_compiled_code_once_it_is_accelerated(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    bundle = make_bundle(tmp_path, IDS, past_sessions=walks(600))
    before = bundle.retrieve(SessionView(ids([7, 8, 9])), Options(20)).items
    with pytest.raises(Exception, match="no kernel for this encoder"):
        bundle.accelerate(tmp_path)
    assert bundle.nearest_sessions is not None
    assert bundle.nearest_sessions.engine == "kernel"
    assert bundle.retrieve(SessionView(ids([7, 8, 9])), Options(20)).items == before


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        (NEAREST_ITEMS, 3, ITEMS + 1, "outside 1..400"),
        (NEAREST_ITEMS, 3, 0, "outside 1..400"),
        (NEAREST_SESSIONS, 3, -1, "outside 0.."),
        (NEAREST_SESSIONS, 3, 10**6, "outside 0.."),
        (NEAREST_ITEMS_OFFSETS, 0, 1, "does not divide"),
        (NEAREST_ITEMS_OFFSETS, 5, 10**6, "does not divide"),
        (NEAREST_SESSIONS_OFFSETS, -1, 3, "does not divide"),
        (NEAREST_COUNTS, 7, 0, "fewer sessions than are stored"),
        (NEAREST_COUNTS, 7, 10**6, "more than were counted"),
    ],
)
def test_damaged_sessions_are_refused(tmp_path: Path, name: str, place: int, value: int, reason: str) -> None:
    manifest = write_files(tmp_path, IDS, past_sessions=walks(600))
    add_probes(tmp_path, manifest, IDS)
    array = np.load(tmp_path / name)
    array[place] = value
    np.save(tmp_path / name, array)
    with pytest.raises(BundleError, match=rf"^{name}: .*{reason}"):
        load_damaged(tmp_path)


def load_damaged(folder: Path) -> None:
    """Load a bundle after its manifest has taken up what its files hold now."""
    write_manifest(folder, read_manifest(folder)[0])
    Bundle.load(folder)


def test_sessions_of_an_item_ascend(tmp_path: Path) -> None:
    manifest = write_files(tmp_path, IDS, past_sessions=walks(600))
    add_probes(tmp_path, manifest, IDS)
    sessions, offsets = np.load(tmp_path / NEAREST_SESSIONS), np.load(tmp_path / NEAREST_SESSIONS_OFFSETS)
    row = int(np.flatnonzero(np.diff(offsets) > 1)[0])
    sessions[offsets[row] + 1] = sessions[offsets[row]]
    np.save(tmp_path / NEAREST_SESSIONS, sessions)
    with pytest.raises(BundleError, match="not ascending"):
        load_damaged(tmp_path)


def test_other_bundles_have_no_field_that_earlier_revisions_would_refuse(tmp_path: Path) -> None:
    make_bundle(tmp_path, IDS)
    assert "nearest_sessions" not in json.loads((tmp_path / "manifest.json").read_text())


def test_sessions_hold_no_row_beyond_the_catalog(bundle: Bundle) -> None:
    assert bundle.nearest_sessions is not None
    fields = bundle.manifest.model_dump()
    fields["nearest_sessions"]["items"] = ITEMS + 1
    with pytest.raises(ValueError, match="larger than items"):
        Manifest.model_validate(fields)


def test_answers_change_with_the_sessions_alone(bundle: Bundle) -> None:
    without = replace(bundle, nearest_sessions=None)
    session = SessionView(ids([7, 8, 9]))
    assert without.retrieve(session, Options(20)).items != bundle.retrieve(session, Options(20)).items
