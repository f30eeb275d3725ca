"""A study finds a better recipe by validation alone, is reproducible and can be resumed."""

import json
import shutil
import signal
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner

from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.recipe import Recipe
from onward.training.run_folder import best_validation, read_run
from onward.training.trainer import Fit, train
from onward.training.tuning.search_space import SearchSpace, read_specs
from onward.training.tuning.study import StudyOutcome, tune

SPECS = {"training.learning_rate": "log:1e-6..2e-2", "encoder.dropout": "0..0.3"}


class Killed(BaseException):
    """The process ends here."""


def kill(*arguments: Any) -> None:
    raise Killed


@pytest.fixture(scope="session")
def small(recipe: Recipe) -> Recipe:
    """The recipe of the other tests at half the size, two epochs."""
    text = recipe.text.replace("dimension = 16", "dimension = 8").replace("epochs = 6", "epochs = 2")
    assert "dimension = 8" in text
    assert "epochs = 2" in text
    return Recipe.parse(text, "small.toml")


def search(recipe: Recipe, dataset: Dataset, out: Path, *, trials: int, **options: Any) -> StudyOutcome:
    return tune(recipe, SPECS, dataset.folder, out, trials=trials, device_name="cpu", **options)


@pytest.fixture(scope="module")
def folder(small: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of three trials."""
    out = tmp_path_factory.mktemp("tuning") / "study"
    search(small, dataset, out, trials=3)
    return out


def test_the_best_recipe_is_complete_and_reproduces_its_validation(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    outcome = search(small, dataset, folder, trials=3)
    assert outcome.best is not None
    assert outcome.best.validation == max(trial.validation for trial in outcome.trials if trial.validation is not None)
    best = Recipe.load(folder / "best.toml")
    assert best.training.learning_rate == outcome.best.values["training.learning_rate"]
    assert best.training.refit == small.training.refit
    assert best.text.startswith("# Of 3 trials on dataset the best: ")
    assert f"recall@20 {outcome.best.validation:.4f}" in best.text.partition("\n")[0]
    train(best, dataset.folder, tmp_path / "run", device_name="cpu")
    assert best_validation(tmp_path / "run")["recall@20"] == outcome.best.validation


def test_every_trial_varies_the_recipe_within_the_space_and_never_refits(folder: Path, small: Recipe) -> None:
    recipes = [Recipe.load(folder / f"trial-{number}" / "recipe.toml") for number in range(3)]
    assert recipes[0].training.learning_rate == small.training.learning_rate
    assert len({recipe.training.learning_rate for recipe in recipes}) == 3
    for recipe in recipes:
        assert 1e-6 <= recipe.training.learning_rate <= 2e-2
        assert 0 <= recipe.encoder.dropout <= 0.3
        assert not recipe.training.refit


@pytest.mark.slow
def test_equal_studies_have_equal_trials_and_another_seed_different_ones(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    first = search(small, dataset, folder, trials=3)
    again = search(small, dataset, tmp_path / "again", trials=2)
    assert again.trials == first.trials[:2]
    other = search(small, dataset, tmp_path / "other", trials=2, seed=2, epochs=1)
    assert other.trials[1].values != first.trials[1].values


def test_a_study_interrupted_by_ctrl_c_resumes_to_the_same_trials(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, set_rate = tmp_path / "study", 0, Fit._set_learning_rate

    def set_rate_and_interrupt(fit: Fit, steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2 * steps + steps // 2:  # half-way through the first epoch of the second trial
            signal.raise_signal(signal.SIGINT)
        set_rate(fit, steps)

    monkeypatch.setattr(Fit, "_set_learning_rate", set_rate_and_interrupt)
    cut_off = search(small, dataset, out, trials=3)
    assert cut_off.interrupted
    assert len(cut_off.trials) == 1
    monkeypatch.undo()
    gone_on = search(small, dataset, out, trials=3)
    assert not gone_on.interrupted
    assert gone_on.trials == search(small, dataset, folder, trials=3).trials


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["onward.training.trainer.write_history", "optuna.Study.tell"])
def test_a_study_killed_after_the_last_epoch_of_a_trial_resumes_to_the_same_trials(
    killed_in: str, folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "trial-0" / "selection" / "checkpoint.pt"

    def kill_after_last_epoch(*arguments: Any, **options: Any) -> None:
        if torch.load(checkpoint, weights_only=True)["state"]["epoch"] == 2:
            raise Killed

    monkeypatch.setattr(killed_in, kill_after_last_epoch)
    with pytest.raises(Killed):
        search(small, dataset, tmp_path, trials=2)
    monkeypatch.undo()
    outcome = search(small, dataset, tmp_path, trials=2)
    assert outcome.trials == search(small, dataset, folder, trials=3).trials[:2]


@pytest.mark.slow
def test_a_study_killed_after_its_last_trial_has_its_best_recipe(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_trial = optuna.Study.add_trial

    def add_and_kill(study: optuna.Study, trial: FrozenTrial) -> None:
        add_trial(study, trial)
        if trial.number == 2:
            raise Killed

    monkeypatch.setattr(optuna.Study, "add_trial", add_and_kill)
    with pytest.raises(Killed):
        search(small, dataset, tmp_path, trials=3)
    monkeypatch.undo()
    outcome = search(small, dataset, tmp_path, trials=3)
    assert outcome == replace(search(small, dataset, folder, trials=3), best_recipe=tmp_path / "best.toml")
    assert (tmp_path / "best.toml").read_text() == (folder / "best.toml").read_text()


@pytest.mark.slow
def test_a_study_that_an_earlier_revision_left_interrupted_resumes_to_the_same_trials(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier revisions stored a trial when it began, and the recipe's own values as a trial to come."""
    monkeypatch.setattr("onward.training.tuning.study.best_validation", kill)
    with pytest.raises(Killed):
        search(small, dataset, tmp_path, trials=2)
    monkeypatch.undo()
    space = SearchSpace.of(small, SPECS)
    earlier = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'study.db'}")
    earlier.enqueue_trial(space.parameters_of(small.text) or {})
    trial = earlier.ask({**space.variations})
    trial.report(0.5, 1)
    outcome = search(small, dataset, tmp_path, trials=2)
    assert outcome.trials == search(small, dataset, folder, trials=3).trials[:2]
    assert search(small, dataset, tmp_path, trials=2).trials == outcome.trials


def test_a_second_process_is_refused_unless_it_joins(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    others: list[StudyOutcome] = []

    def run_the_other_trials(line: str) -> None:
        if line.startswith("trial 0: "):
            with pytest.raises(InputError, match=r"study: is in use by process \d+ on .*; add --join"):
                search(small, dataset, tmp_path / "study", trials=3)
            others.append(search(small, dataset, tmp_path / "study", trials=3, join=True))

    outcome = search(small, dataset, tmp_path / "study", trials=3, on_trial=run_the_other_trials)
    (other,) = others
    assert [trial.number for trial in other.trials] == [1, 2]
    assert other.running_elsewhere == 1
    assert [trial.number for trial in outcome.trials] == [0, 1, 2]
    assert outcome.trials == search(small, dataset, folder, trials=3).trials
    assert (tmp_path / "study" / "best.toml").read_text() == (folder / "best.toml").read_text()
    assert list((tmp_path / "study").glob("trial-*.lock")) == []


def test_a_trial_whose_process_was_killed_goes_on_in_another_with_its_values(
    small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_and_be_killed(line: str) -> None:
        if line.startswith("trial 0: "):
            with monkeypatch.context() as patched:
                patched.setattr("onward.training.tuning.study.best_validation", kill)
                with pytest.raises(Killed):
                    search(small, dataset, tmp_path, trials=2, join=True)

    outcome = search(small, dataset, tmp_path, trials=2, on_trial=run_and_be_killed)
    begun = Recipe.load(tmp_path / "trial-1" / "recipe.toml")
    assert [trial.state for trial in outcome.trials] == ["complete", "complete"]
    assert outcome.trials[1].values["training.learning_rate"] == begun.training.learning_rate


@pytest.mark.slow
def test_trials_below_the_median_are_pruned(
    small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = {"training.learning_rate": "1e-2,2e-2,1e-9"}
    add_trial = optuna.Study.add_trial

    def add_or_kill(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state is TrialState.PRUNED:  # a killed study resumes without another epoch of the trial to prune
            monkeypatch.undo()
            raise Killed
        add_trial(study, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", add_or_kill)
    with pytest.raises(Killed):
        tune(small, specs, dataset.folder, tmp_path / "study", trials=6, seed=1, device_name="cpu")
    outcome = tune(small, specs, dataset.folder, tmp_path / "study", trials=6, seed=1, device_name="cpu")
    *compared, last = outcome.trials  # the first five are run to their end, to compare with
    assert [(trial.state, trial.epochs) for trial in compared] == [("complete", 2)] * 5
    assert last.values == {"training.learning_rate": 1e-9}
    assert (last.state, last.epochs) == ("pruned", 1)


def test_invalid_combinations_of_values_are_failed_trials(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    specs = {"training.optimizer": "adam,adamw", "training.sparse_updates": "false,true"}
    lines: list[str] = []
    outcome = tune(
        small, specs, dataset.folder, tmp_path, trials=2, epochs=1, seed=9, device_name="cpu", on_trial=lines.append
    )
    assert [trial.state for trial in outcome.trials] == ["complete", "fail"]
    assert outcome.trials[1].values == {"training.optimizer": "adamw", "training.sparse_updates": True}
    assert outcome.best == outcome.trials[0]
    assert "trial 1: left out: " in lines[-1]
    assert "sparse_updates need" in lines[-1]


@pytest.mark.slow
def test_a_trial_that_diverges_has_failed_and_is_never_the_best(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    lines: list[str] = []
    specs = {"training.learning_rate": "1e-2,1e30"}
    outcome = tune(small, specs, dataset.folder, tmp_path, trials=4, seed=3, device_name="cpu", on_trial=lines.append)
    diverged = [trial for trial in outcome.trials if trial.values["training.learning_rate"] == 1e30]
    assert diverged
    assert all((trial.state, trial.validation) == ("fail", None) for trial in diverged)
    assert any(line.startswith(f"trial {diverged[0].number}: failed: ") and "diverged" in line for line in lines)
    assert outcome.best is not None
    assert outcome.best.values["training.learning_rate"] == 1e-2
    assert tune(small, specs, dataset.folder, tmp_path, trials=4, seed=3, device_name="cpu").trials == outcome.trials


def test_the_test_part_is_never_read(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    data = tmp_path / "dataset"
    shutil.copytree(dataset.folder, data)
    (data / "test.parquet").write_bytes(b"")
    assert search(small, Dataset.open(data), tmp_path / "study", trials=1).best is not None


def test_the_command_prints_the_study_as_json(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(small.text)
    (tmp_path / "space.toml").write_text('[encoder]\ndropout = "0.0,0.1"\n[training]\nbatch_size = "32..128"\n')
    out = tmp_path / "study"
    command = ["tune", str(tmp_path / "small.toml"), "--data", str(dataset.folder), "--out", str(out), "--json"]
    command += ["--space", str(tmp_path / "space.toml"), "--trials", "2", "--epochs", "1", "--device", "cpu"]
    printed = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert [trial["state"] for trial in printed["trials"]] == ["complete", "complete"]
    assert all(32 <= trial["values"]["training.batch_size"] <= 128 for trial in printed["trials"])
    assert printed["best_recipe"] == str(out / "best.toml")
    assert tomllib.loads((out / "best.toml").read_text())["training"]["epochs"] == 1
    assert read_run(out / "trial-0")["data_fingerprint"] == dataset.info.fingerprint


def test_a_folder_with_another_study_is_refused(folder: Path, small: Recipe, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="holds a study of another seed"):
        search(small, dataset, folder, trials=5, seed=7)
    with pytest.raises(InputError, match="holds a study of another space"):
        tune(small, {"encoder.dropout": "0..0.2"}, dataset.folder, folder, trials=5)
    with pytest.raises(InputError, match="holds a study of another recipe"):
        search(Recipe.parse(small.text.replace("dimension = 8", "dimension = 6"), "x.toml"), dataset, folder, trials=3)


def test_a_study_goes_on_with_its_recipe_worded_otherwise(folder: Path, small: Recipe, dataset: Dataset) -> None:
    worded = Recipe.parse(f"# A new comment.\n{small.text}", "small.toml")
    assert len(search(worded, dataset, folder, trials=3).trials) == 3


def test_a_damaged_study_is_an_error_that_names_it(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(InputError, match=r"study\.db: is damaged"):
        search(small, dataset, tmp_path, trials=1)


def test_a_trial_folder_of_other_values_is_an_error_that_names_it(
    folder: Path, small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(folder / "trial-1", tmp_path / "trial-0")
    record = tmp_path / "trial-0" / "run.json"
    record.write_text(record.read_text().replace("dimension = 8", "dimension = 6"))
    with pytest.raises(InputError, match=r"trial-0: was begun with other values; remove this folder"):
        search(small, dataset, tmp_path, trials=1)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            {"training.learning_rat": "1..2"},
            r"training\.learning_rat: no key .* did you mean training\.learning_rate\?",
        ),
        ({"training.refit": "true,false"}, r"training\.refit: does not vary: a trial never refits"),
        ({"training.validation_metric": "a,b"}, r"training\.validation_metric: does not vary"),
        ({"encoder.dropout": "0..2"}, r"--vary encoder\.dropout=0\.\.2: encoder\.dropout: Input should be less than 1"),
        ({"training.optimizer": "1..2"}, r"training\.optimizer=1\.\.2: the recipe has no number here; write choices"),
        ({"training.optimizer": "sgd,adam"}, r"training\.optimizer: Input should be 'adam'"),
        ({"training.epochs": "8..1"}, r"training\.epochs=8\.\.1: write two finite bounds, the lower one first"),
        ({"training.learning_rate": "log:0..1"}, "above 0 with log:"),
        ({"training.learning_rate": "1e-3..inf"}, "two finite bounds"),
        ({"training.learning_rate": "a..b"}, "'a' is not a number"),
        ({"training.epochs": ","}, "write choices, as a,b,c"),
        ({}, "nothing to vary; add --vary KEY=SPEC or --space FILE"),
    ],
)
def test_an_invalid_key_or_spec_is_an_error_of_one_line(small: Recipe, specs: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        SearchSpace.of(small, specs)
    assert "\n" not in str(refused.value)


def test_choices_may_be_tables_and_keys_may_be_nested(small: Recipe) -> None:
    space = SearchSpace.of(
        small,
        {
            "encoder.similarity": '{ kind = "inner_product" }, { kind = "cosine", scale = 16.0 }',
            "training.schedule.warmup": "0.0..0.2",
        },
    )
    similarities = space.variations["encoder.similarity"]
    assert isinstance(similarities, CategoricalDistribution)
    scaled = similarities.choices[1]
    recipe = Recipe.parse(space.text({"encoder.similarity": scaled, "training.schedule.warmup": 0.125}), "varied")
    assert recipe.encoder.similarity.scale == 16
    assert recipe.training.schedule.model_dump()["warmup"] == 0.125


def test_options_and_space_file_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('encoder.dropout = "0..0.5"\n[training]\nlearning_rate = "log:1e-4..1e-2"\n')
    assert read_specs(["encoder.dropout=0,0.1"], file) == {
        "encoder.dropout": "0,0.1",
        "training.learning_rate": "log:1e-4..1e-2",
    }
    with pytest.raises(InputError, match=r"--vary encoder\.dropout: write KEY=SPEC"):
        read_specs(["encoder.dropout"], None)
    file.write_text("encoder.dropout = 0.1\n")
    with pytest.raises(InputError, match=r"space\.toml: encoder\.dropout: write a spec in quotes"):
        read_specs([], file)
