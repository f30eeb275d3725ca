"""Nearest sessions as a model: the votes of the baselines, and a bundle that answers with their figures."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomlkit
import torch
import torch.nn.functional as F

from onward.bundle import Bundle, Options, SessionView
from onward.training.baselines import BASELINES, BaselineItem
from onward.training.baselines.popularity import PopularityBaseline
from onward.training.baselines.session_knn import V_SKNN, VMIS_KNN, SessionKNN, SessionKNNOptions
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.session_index import add_sessions, index_sessions
from onward.training.errors import InputError
from onward.training.evaluation.cases import cases_of
from onward.training.evaluation.evaluation import evaluate, evaluate_bundle, without_excluded
from onward.training.export.export import export
from onward.training.export.rebuild import rebuild
from onward.training.models.nearest_sessions import NearestSessionsEncoder, NearestSessionsOptions
from onward.training.recipe import RECIPES, Recipe
from onward.training.results.page import write_page
from onward.training.results.recorded_evaluation import evaluate_and_record
from onward.training.run_folder import best_validation, read_run
from onward.training.trainer import train
from tests.training.corpora import corpus, sessions

V_SKNN_FORM = {"place_power": 2, "match": "reciprocal", "rarity_base": 1.0, "rarity_factor": 10.0}


def options(**changed: object) -> NearestSessionsOptions:
    return NearestSessionsOptions.model_validate({**Recipe.load(Path("knn")).encoder.model_dump(), **changed})


@pytest.fixture(scope="module")
def nearest_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knn") / "run"
    assert train(Recipe.load(Path("knn")), dataset.folder, folder, device_name="cpu", epochs=7)
    return folder


@pytest.fixture(scope="module")
def bundles(nearest_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    export([nearest_run], folder)
    return folder


@pytest.mark.parametrize(("candidates", "neighbours"), [(1502, 288), (40, 9)])
@pytest.mark.parametrize(("baseline", "form"), [(VMIS_KNN, {}), (V_SKNN, V_SKNN_FORM)])
def test_votes_are_those_of_the_baseline(
    dataset: Dataset, baseline: SessionKNNOptions, form: dict[str, object], candidates: int, neighbours: int
) -> None:
    settings = replace(baseline, last_events=4, candidates=candidates, neighbours=neighbours)
    expected = SessionKNN(dataset, "test", options=settings)
    nearest = NearestSessionsEncoder(
        Corpus.of(dataset, dataset.training_and_validation()),
        options(**form, candidates=candidates, neighbours=neighbours),
    ).nearest_sessions
    ids = dataset.item_ids()
    random = np.random.default_rng(1)
    for _ in range(100):
        session = random.integers(1, len(ids) + 1, size=random.integers(1, 9)).tolist()
        rows, votes = nearest.votes(session)
        given = {ids[row - 1]: vote for row, vote in zip(rows.tolist(), votes.tolist(), strict=True)}
        ranked = expected.retrieve([ids[row - 1] for row in session], len(ids))
        assert given == pytest.approx({item.item_id: item.score - 1 for item in ranked if item.score >= 1})


def test_a_run_is_one_epoch_without_steps_and_a_refit(nearest_run: Path) -> None:
    record = read_run(nearest_run)
    assert (record["model"], record["epochs"]) == ("knn", 1)
    assert best_validation(nearest_run)["recall@20"] > 0.5
    assert torch.load(nearest_run / "weights.pt", weights_only=True)["fit"] == "refit"


def test_a_run_resumes(dataset: Dataset, nearest_run: Path) -> None:
    assert train(Recipe.load(Path("knn")), dataset.folder, nearest_run, device_name="cpu", epochs=7, resume=True)


def test_the_bundle_ranks_by_votes_with_the_figures_of_the_baseline(bundles: Path, dataset: Dataset) -> None:
    """Items without votes are ranked last, as by the baseline; there by popularity, here by similarity too."""
    bundle = Bundle.load(bundles / "current")
    cases = list(cases_of(dataset.sessions("test"), together=False))
    popularity = PopularityBaseline(dataset, "test")

    def by_votes(item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        rows = [row for row in bundle.catalog.rows(item_ids) if row is not None]
        assert bundle.nearest_sessions is not None
        rows_V, votes_V = bundle.nearest_sessions.votes(rows)
        ids = bundle.catalog.item_ids(rows_V.tolist())
        return popularity.fill({item: 1 + vote for item, vote in zip(ids, votes_V.tolist(), strict=True)}, k)

    baseline = BASELINES["vmis-knn"](dataset, "test")
    items = len(dataset.item_ids())
    left_out = bundle.manifest.defaults.exclude_seen
    expected = evaluate(without_excluded(baseline.retrieve, left_out), cases, items=items)
    assert evaluate(without_excluded(by_votes, left_out), cases, items=items) == expected
    served = evaluate_bundle(bundles, dataset.folder, "test")
    assert served["recall@20"] >= expected["recall@20"]
    assert served["mrr@20"] >= expected["mrr@20"] - 1e-3
    exact = pytest.approx({name: served[name] for name in served["exact"]}, rel=1e-3)  # items at a tie may swap
    assert served["exact"] == exact
    for case in cases[:200]:
        votes = {item.item_id: item.score for item in baseline.retrieve(case.inputs, items) if item.score >= 1}
        shown = bundle.retrieve(SessionView(case.inputs), Options(items, exclude_seen=False)).items.item_ids
        ranked = [votes.get(item_id, 1) for item_id in shown]
        assert ranked == pytest.approx(sorted(ranked, reverse=True), rel=1e-2)


def test_co_occurring_items_are_similar() -> None:
    torch.manual_seed(1)
    encoder = NearestSessionsEncoder(corpus(30), options(dimension=16))
    vectors_ND = F.normalize(encoder.item_vectors(), dim=1)
    cosines_NN = vectors_ND @ vectors_ND.T
    assert cosines_NN[10, [9, 11]].min() > cosines_NN[10, [2, 20, 25]].max()
    assert encoder.item_vectors().norm(dim=1)[1:] == pytest.approx(np.ones(30), abs=2e-3)


def test_of_equal_items_without_votes_the_more_popular_are_first() -> None:
    encoder = NearestSessionsEncoder(corpus(30), options(dimension=16))
    scores_N = (encoder.item_vectors() @ encoder(torch.tensor([[0, 20]]))[0, 0]).tolist()
    assert scores_N[2] > scores_N[10]
    assert scores_N[19] > scores_N[10]


def test_a_catalog_smaller_than_the_dimension_has_vectors_too() -> None:
    assert NearestSessionsEncoder(corpus(3), options(dimension=16)).item_vectors().shape == (4, 16)


def test_a_recipe_says_nothing_of_steps() -> None:
    recipe = tomlkit.parse((RECIPES / "knn.toml").read_text())
    recipe["training"].update({"learning_rate": 1e-3})
    with pytest.raises(InputError, match=r"training.learning_rate: a knn learns nothing by steps"):
        Recipe.parse(tomlkit.dumps(recipe), "knn.toml")


@pytest.mark.slow
def test_nearest_sessions_join_a_network_with_a_weight_chosen_on_validation(
    nearest_run: Path, dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    text = recipe.text.replace("refit = false", "refit = true")
    network = tmp_path / "network"
    assert train(Recipe.parse(text, "srgnn"), dataset.folder, network, device_name="cpu", epochs=2)
    steps: list[str] = []
    export([network, nearest_run], tmp_path / "joined", on_step=steps.append)
    [choice] = [step for step in steps if step.startswith("nearest sessions: weight")]
    bundle = Bundle.load(tmp_path / "joined" / "current")
    assert bundle.manifest.model == "srgnn+knn"
    assert bundle.nearest_sessions is not None
    assert f"weight {bundle.nearest_sessions.info.weight}," in choice
    export([network], tmp_path / "alone")
    joined, alone = (evaluate_bundle(tmp_path / name, dataset.folder, "test") for name in ("joined", "alone"))
    assert joined["recall@5"] >= alone["recall@5"] - 0.02


def test_only_one_run_of_nearest_sessions_is_part_of_a_bundle(nearest_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only one run of nearest sessions"):
        export([nearest_run, nearest_run], tmp_path / "bundles")


def log_of(sessions: list[list[str]], after_ms: int) -> str:
    """A log of sessions a minute apart."""
    lines = [
        f"s{after_ms}-{number},{item},{after_ms + 60_000 * (1 + number) + 1_000 * place}"
        for number, items in enumerate(sessions)
        for place, item in enumerate(items)
    ]
    return "\n".join(["session_id,item_id,timestamp", *lines])


def test_new_sessions_join_a_bundle_without_training(bundles: Path, dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    shutil.copytree(bundles, folder, symlinks=True)
    before = Bundle.load(folder / "current")
    info = before.manifest.nearest_sessions
    assert info is not None
    assert info.last_event is not None
    ids = dataset.item_ids()
    last_ms = int(info.last_event.timestamp() * 1000)
    new = [[ids[0], ids[40], "unheard-of"]] * 200 + [[ids[1], "unheard-of"]]
    old = [[ids[0], ids[50]]] * 200
    (tmp_path / "events.csv").write_text(
        log_of(new, last_ms) + "\n" + log_of(old, last_ms - 10**9).partition("\n")[2] + "\n"
    )
    steps: list[str] = []
    rebuild(folder, sessions=[str(tmp_path / "events.csv")], on_step=steps.append)
    assert any(step.startswith("200 new sessions of 401;") for step in steps)
    after = Bundle.load(folder / "current")
    assert after.manifest.nearest_sessions is not None
    assert after.manifest.nearest_sessions.counted_sessions == info.counted_sessions + 200
    answer = [bundle.retrieve(SessionView([ids[0]]), Options(3)).items.item_ids for bundle in (before, after)]
    assert ids[40] not in answer[0]
    assert ids[40] in answer[1]
    rebuild(folder, sessions=[str(tmp_path / "events.csv")], on_step=steps.append)
    assert any(step.startswith("0 new sessions of 401;") for step in steps)


def test_added_sessions_give_the_index_of_all_sessions() -> None:
    random = np.random.default_rng(2)
    walks = [random.integers(1, 31, size=random.integers(2, 7)).tolist() for _ in range(400)]
    whole, counted = index_sessions([sessions(*walks)], 30, 20)
    first, counted_first = index_sessions([sessions(*walks[:250])], 30, 20)
    added = sessions(*walks[250:])
    grown, counted_grown = add_sessions(first, counted_first, added.rows, added.offsets, 30, 20)
    assert (counted, counted_grown) == (400, 400)
    for array, expected in zip(grown, whole, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_only_a_bundle_with_nearest_sessions_takes_new_ones(exported: Path) -> None:
    with pytest.raises(InputError, match="a srgnn, holds no nearest sessions"):
        rebuild(exported, sessions=["events.csv"])


def test_a_run_is_recorded_and_shown_among_the_results(
    nearest_run: Path, bundles: Path, dataset: Dataset, tmp_path: Path
) -> None:
    evaluate_and_record(bundles, dataset.folder, [nearest_run], tmp_path / "records")
    assert write_page(tmp_path / "records", tmp_path / "page.md") == 1
    assert "knn" in (tmp_path / "page.md").read_text()
