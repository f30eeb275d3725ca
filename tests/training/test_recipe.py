"""Recipes are complete and typed, and errors name the file and the key."""

from pathlib import Path

import pytest

from onward.training.errors import InputError
from onward.training.recipe import RECIPES, LinearSchedule, Recipe, StepSchedule
from tests.training.corpora import corpus

TEXT = (RECIPES / "srgnn.toml").read_text()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_bundled_recipe_is_valid(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.build(corpus(5)).max_length == recipe.encoder.max_length
    assert path.stem.startswith(recipe.model)


def test_a_bundled_recipe_is_found_by_its_name() -> None:
    assert Recipe.load(Path("srgnn")).text == TEXT


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("batch_size", "batchsize", "training.batchsize: unknown key; did you mean 'batch_size'?"),
        ("dimension", "dimensions", "encoder.dimensions: unknown key; did you mean 'dimension'?"),
        ("patience = 3\n", "", "training.patience: Field required"),
        ('model = "srgnn"', 'model = "srgn"', "model: unknown model 'srgn'; did you mean 'srgnn'?"),
        ("epochs = 8", "epochs = 0", "training.epochs: Input should be greater than 0"),
        ("epochs = 8", "epochs = ", "is not TOML"),
    ],
)
def test_an_error_is_one_line_that_names_file_and_key(before: str, after: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace(before, after, 1))
    with pytest.raises(InputError) as error:
        Recipe.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("re4-amazon_cds-paper", ', denominator = "session"'),
        ("re4-amazon_cds-paper", ', target = "scores"'),
        ("mvcrec-amazon_beauty-paper", 'kind = "item_item", '),
    ],
)
def test_a_recipe_of_an_earlier_version_has_the_form_that_it_had(name: str, later: str) -> None:
    """Run folders and bundles keep recipes as they were written, without keys that came later."""
    text = (RECIPES / f"{name}.toml").read_text()
    assert later in text
    earlier = Recipe.parse(text.replace(later, ""), "recipe.toml")
    assert earlier.encoder == Recipe.load(Path(name)).encoder


def test_an_unknown_recipe_is_an_error_that_lists_the_bundled_ones() -> None:
    with pytest.raises(InputError, match=r"no such recipe; give a TOML file or one of: .*srgnn"):
        Recipe.load(Path("srgan"))


def test_a_step_schedule_falls_every_few_epochs() -> None:
    schedule = StepSchedule(kind="step", every=3, factor=0.1)
    assert [schedule.multiplier(epoch, 0) for epoch in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])


def test_a_linear_schedule_rises_then_falls() -> None:
    schedule = LinearSchedule(kind="linear", warmup=0.1)
    assert [schedule.multiplier(0, progress) for progress in (0.05, 0.1, 0.55, 1)] == pytest.approx([0.5, 1, 0.5, 0.01])
