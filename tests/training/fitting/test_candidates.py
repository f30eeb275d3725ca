"""The defaults that a fit adapts to a dataset, and says so."""

from pathlib import Path

import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.fitting.candidates import adapted_training, candidates_for
from tests.training.conftest import walks
from tests.training.data.conftest import Prepare


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    return Prepare(tmp_path)


def said(data: Dataset) -> dict[str, str]:
    return {of.what: of.value for of in adapted_training(data)}


@pytest.mark.parametrize(
    ("weights", "value"),
    [
        (None, "equal"),
        ({"view": 1.0, "buy": 1.0}, "equal"),
        ({"view": 1.0, "buy": 5.0}, "those of their events, 1 to 5"),
    ],
)
def test_it_says_whether_targets_are_weighed(prepared: Prepare, weights: dict[str, float] | None, value: str) -> None:
    kinds = pl.int_range(pl.len()) % 7 == 0
    events = walks(60, seed=3).with_columns(event=pl.when(kinds).then(pl.lit("buy")).otherwise(pl.lit("view")))
    data = prepared(events, SplitKind.TEMPORAL, validation=0.2, weights=weights)
    assert said(data)["weights of targets"] == value
    assert all(of.recipe.training.weigh_targets for of in candidates_for(data) if of.recipe.has_steps)


def test_it_says_that_impressions_are_weak_negatives(prepared: Prepare) -> None:
    kinds = pl.int_range(pl.len()) % 7 == 0
    kind = pl.when(kinds).then(pl.lit("impression")).otherwise(pl.lit("view"))
    shown = prepared(walks(60, seed=3).with_columns(event=kind), SplitKind.TEMPORAL, validation=0.2)
    assert said(shown)["weak negatives"].endswith("impressions without a click")
    assert "weak negatives" not in said(prepared(walks(60, seed=3), SplitKind.TEMPORAL, validation=0.2))


@pytest.mark.parametrize(("examples", "dimension"), [(1_000, 100), (200_000, 100), (1_000_000, 128)])
def test_dimensions_follow_the_number_of_examples_and_are_said(dataset: Dataset, examples: int, dimension: int) -> None:
    train = dataset.info.parts["train"].model_copy(update={"examples": examples})
    info = dataset.info.model_copy(update={"parts": {**dataset.info.parts, "train": train}})
    sized = Dataset(dataset.folder, info)
    networks = [of.recipe for of in candidates_for(sized) if of.recipe.has_steps]
    assert {recipe.encoder.dimension for recipe in networks} == {dimension}
    assert set(said(sized)) >= {"dimension", "epochs", "weights of targets"}
    assert said(sized)["dimension"].startswith(f"srgnn {dimension}, ")
    assert ("batch_size" in said(sized)) == (examples >= 200_000)
