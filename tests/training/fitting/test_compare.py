"""Recipes are compared on the same validation examples, by a paired test."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.fitting.compare import compare
from onward.training.recipe import Recipe
from onward.training.tuning.search_space import with_values


@pytest.fixture(scope="module")
def recipes(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A recipe that learns, and one that does not."""
    folder = tmp_path_factory.mktemp("recipes")
    good = with_values(recipe.text, {"training.epochs": 3, "training.refit": True})
    poor = with_values(good, {"training.learning_rate": 1e-6})
    for name, text in (("good", good), ("poor", poor)):
        (folder / f"{name}.toml").write_text(text)
    return [folder / "poor.toml", folder / "good.toml"]


def test_the_better_recipe_is_first_and_the_difference_has_its_interval(
    recipes: list[Path], dataset: Dataset, tmp_path: Path
) -> None:
    arguments = ["compare", *map(str, recipes), "--data", str(dataset.folder), "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(cli, [*arguments, "--device", "cpu", "--json"])
    assert outcome.exit_code == 0, outcome.output
    comparison = json.loads(outcome.stdout)
    good, poor = comparison["recipes"]
    assert (good["recipe"], poor["recipe"]) == ("good", "poor")
    assert (good["difference"], good["low"], good["high"]) == (0, 0, 0)
    assert poor["low"] < poor["difference"] < poor["high"] < 0
    assert poor["difference"] == pytest.approx(poor["metrics"]["ndcg@20"] - good["metrics"]["ndcg@20"])
    assert len(good["curve"]) == good["epochs"] == 3
    assert comparison == json.loads((tmp_path / "out" / "compare.json").read_text())
    again = CliRunner().invoke(cli, [*arguments, "--device", "cpu"])
    assert again.exit_code == 0
    lines = [line.split() for line in again.stdout.splitlines()]
    assert [line[0] for line in lines if line and line[0] in {"good", "poor"}] == ["good", "poor"]


def test_recipes_that_do_not_compare_are_refused(recipes: list[Path], dataset: Dataset, tmp_path: Path) -> None:
    poor, good = map(Recipe.load, recipes)
    with pytest.raises(InputError, match="give two recipes or more"):
        compare([good], dataset.folder, tmp_path / "out")
    with pytest.raises(InputError, match="give two recipes or more, each with a file name of its own"):
        compare([good, good], dataset.folder, tmp_path / "out")
    other = Recipe.parse(with_values(good.text, {"serving.exclude_seen": True}), "other.toml")
    with pytest.raises(InputError, match="exclude_seen differs"):
        compare([poor, other], dataset.folder, tmp_path / "out")
