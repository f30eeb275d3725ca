"""Recipes are complete and typed, and errors name the file and the key."""

import json
from pathlib import Path

import pytest

from onward.training.errors import InputError
from onward.training.losses.objectives import SampledSoftmax
from onward.training.models.attrec import Hinge
from onward.training.recipe import RECIPES, LinearSchedule, RandomCutPerUser, Recipe, StepSchedule
from tests.training.corpora import corpus

TEXT = (RECIPES / "srgnn.toml").read_text()
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def run_recipe(data: str, run: str) -> str:
    text: str = json.loads((RESULTS / data / f"{run}.json").read_text())["recipe_text"]
    return text


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
        ("max_length = 50", "max_length = 1001", "encoder.max_length: Input should be less than or equal to 1000"),
        ("epochs = 8", "epochs = ", "is not TOML"),
        (
            "refit = true",
            'refit = true\nexamples = { kind = "random_cut_per_user", batches = 9, fewest = 4 }',
            "training.examples.random_cut_per_user.fewest: unknown key; did you mean 'fewest_items'?",
        ),
        (
            "refit = true",
            "refit = true\ninitial_accumulator = 0.1",
            "training: initial_accumulator is an option of adagrad; adam has none",
        ),
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


def test_a_model_that_trains_every_position_has_no_random_cuts() -> None:
    text = (RECIPES / "sasrec.toml").read_text()
    cuts = 'examples = { kind = "random_cut_per_user", batches = 9, fewest_items = 4 }'
    with pytest.raises(InputError, match=r"mine: training.examples: sasrec trains every position"):
        Recipe.parse(text.replace("refit = true", f"refit = true\n{cuts}"), "mine")


def test_a_recipe_without_the_options_of_version_02_means_what_it_did() -> None:
    """The recipes of version 0.1 for AttRec on MovieLens and ComiRec on Amazon CDs, as their run folders hold them."""
    attrec = Recipe.parse(run_recipe("ml1m", "attrec-ml1m-paper-seed1"), "attrec")
    assert attrec.training.initial_accumulator == 0
    assert attrec.training.examples.kind == "every_target"
    assert attrec.encoder.initial_deviation == 0.01
    assert attrec.encoder.objective.reduction == "mean"
    comirec = Recipe.parse(run_recipe("amazon_cds", "comirec_sa-amazon_cds-seed1"), "comirec")
    assert not comirec.encoder.objective.distinct
    assert not comirec.encoder.objective.log_q_of_target


@pytest.mark.parametrize("model", ["comirec_sa", "comirec_dr", "mind"])
def test_paper_recipes_for_books_train_as_the_code_of_comirec(model: str) -> None:
    """Batches of 128 users, cut at their fifth item or later; ten times as many unique negatives, by TensorFlow's loss;
    an evaluation each 1,000 of at most a million iterations, and an end when more than 50 in a row are no better.
    """
    recipe = Recipe.load(Path(f"{model}-amazon_cds-paper"))
    assert recipe.training.batch_size == 128
    assert recipe.training.examples == RandomCutPerUser(kind="random_cut_per_user", batches=1000, fewest_items=4)
    assert recipe.encoder.objective == SampledSoftmax(
        kind="sampled_softmax",
        negatives=10 * 128,
        distribution="log_uniform",
        log_q=True,
        distinct=True,
        log_q_of_target=True,
    )
    assert (recipe.training.epochs, recipe.training.patience) == (1000, 51)


def test_the_paper_recipe_of_attrec_trains_as_the_code_of_its_author() -> None:
    recipe = Recipe.load(Path("attrec-ml1m-paper"))
    training, encoder = recipe.training, recipe.encoder
    assert (training.optimizer, training.learning_rate, training.initial_accumulator) == ("adagrad", 0.05, 0.05)
    assert (training.batch_size, training.weight_decay) == (1000, 1e-3)
    assert encoder.initial_deviation == 0.001
    assert encoder.objective == Hinge(kind="hinge", margin=0.5, negatives=1, reduction="sum")


def test_recipes_with_measured_results_beyond_the_papers_are_unchanged() -> None:
    """Their settings are those that their results were measured with, as the records hold them."""
    for record in sorted(RESULTS.glob("*/*-seed1.json")):
        text = json.loads(record.read_text()).get("recipe_text")
        path = RECIPES / f"{record.stem.removesuffix('-seed1')}.toml"
        if text is not None and path.exists() and not path.stem.endswith("-paper"):
            measured, current = Recipe.parse(text, path.stem), Recipe.load(path)
            for table in ("model", "encoder", "training", "serving"):
                assert getattr(current, table) == getattr(measured, table), (path.stem, table)


def test_an_unknown_recipe_is_an_error_that_lists_the_bundled_ones() -> None:
    with pytest.raises(InputError, match=r"no such recipe; give a TOML file or one of: .*srgnn"):
        Recipe.load(Path("srgan"))


def test_a_step_schedule_falls_every_few_epochs() -> None:
    schedule = StepSchedule(kind="step", every=3, factor=0.1)
    assert [schedule.multiplier(epoch, 0) for epoch in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])


def test_a_linear_schedule_rises_then_falls() -> None:
    schedule = LinearSchedule(kind="linear", warmup=0.1)
    assert [schedule.multiplier(0, progress) for progress in (0.05, 0.1, 0.55, 1)] == pytest.approx([0.5, 1, 0.5, 0.01])
