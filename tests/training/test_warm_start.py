"""A run can begin with another's weights; items and users are matched by id."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.models import MODELS
from onward.training.recipe import RECIPES, Recipe
from onward.training.run_folder import sessions_of_fit
from onward.training.trainer import train
from onward.training.warm_start import START, MatchedRows, begin_with, save_start
from tests.training.conftest import walks
from tests.training.corpora import corpus
from tests.training.data.conftest import Prepare


@pytest.fixture
def grown(tmp_path: Path) -> Dataset:
    """The walks of another month, in which one circle of items is new and another is gone."""
    circle = pl.col("item_id").str.replace("item-0-", "new-")
    (tmp_path / "grown").mkdir()
    return Prepare(tmp_path / "grown")(walks(300, seed=8).with_columns(item_id=circle), validation=0.1)


def test_rows_are_matched_by_id() -> None:
    matched = MatchedRows.of(["c", "new", "a"], ["a", "b", "c"])
    assert matched.rows_N1.tolist() == [0, 3, 0, 1]
    assert matched.known_N1.tolist() == [True, True, False, True]


def test_known_items_begin_with_their_vectors_and_new_ones_with_random_ones(
    run: Path, recipe: Recipe, dataset: Dataset, grown: Dataset, tmp_path: Path
) -> None:
    said = save_start(run, recipe, grown, tmp_path)
    assert said == f"begins with the weights of {run}, which knows 50 of 60 items"
    encoder = recipe.build(Corpus.of(grown, sessions_of_fit(grown, "selection")))
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    begin_with(encoder, tmp_path / START)
    trained = torch.load(run / "weights.pt", weights_only=True)["encoder"]
    rows = {item: row for row, item in enumerate(dataset.item_ids(), start=1)}
    for name, weight in encoder.state_dict().items():
        if name != "items.embedding.weight":
            assert torch.equal(weight, trained[name]), name
            continue
        for row, item in enumerate(grown.item_ids(), start=1):
            expected = trained[name][rows[item]] if item in rows else before[name][row]
            assert torch.equal(weight[row], expected), item
        assert not weight[0].any()


def test_a_run_with_anothers_weights_begins_better_and_resumes_without_it(
    run: Path, recipe: Recipe, grown: Dataset, tmp_path: Path
) -> None:
    source, out = shutil.copytree(run, tmp_path / "source"), tmp_path / "run"
    train(recipe, grown.folder, tmp_path / "cold", device_name="cpu", epochs=1)
    train(recipe, grown.folder, out, device_name="cpu", epochs=1, start=source, on_epoch=lambda line: False)
    cold, warm = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (tmp_path / "cold", out)
    )
    assert warm["loss"] < 0.8 * cold["loss"]
    with pytest.raises(InputError, match="was started with another --from"):
        train(recipe, grown.folder, out, device_name="cpu", epochs=1, start=run, resume=True)
    shutil.rmtree(source)
    assert train(recipe, grown.folder, out, device_name="cpu", epochs=1, resume=True)
    refit = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])
    assert refit["fit"] == "refit"
    assert refit["loss"] < 0.8 * cold["loss"]


def test_another_encoder_and_a_run_without_weights_are_refused(
    run: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    other = Recipe.parse(recipe.text.replace("dimension = 16", "dimension = 8"), "other")
    with pytest.raises(InputError, match=r"--from .*: has another model or \[encoder\] than the recipe"):
        train(other, dataset.folder, tmp_path / "run", device_name="cpu", start=run)
    empty = shutil.copytree(run, tmp_path / "empty")
    (empty / "weights.pt").unlink()
    with pytest.raises(InputError, match="no epoch is complete yet; it has no weights"):
        train(recipe, dataset.folder, tmp_path / "run", device_name="cpu", start=empty)
    with pytest.raises(InputError, match="holds a run already"):
        train(recipe, dataset.folder, empty, device_name="cpu", start=run)
    assert not (empty / START).exists()


@pytest.mark.parametrize("model", MODELS)
def test_the_tables_of_every_model_are_named(model: str) -> None:
    """A weight whose size depends on the items or users is in one of its encoder's lists of tables."""
    recipe = Recipe.load(RECIPES / f"{model}.toml")
    small, large = recipe.build(corpus(30, users=3)), recipe.build(corpus(31, users=4))
    sizes = {name: weight.shape for name, weight in small.state_dict().items()}
    vary = {name for name, weight in large.state_dict().items() if weight.shape != sizes[name]}
    assert vary == {*small.item_tables, *small.user_tables, *small.session_tables} & sizes.keys()
    assert small.item_tables
    assert {*small.item_tables, *small.user_tables} <= vary
