"""The training loop learns, can be interrupted and resumed at any step, and is reproducible."""

import json
import shutil
import signal
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from onward.training.data.dataset import Dataset
from onward.training.data.examples import Batch, Examples
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.errors import Diverged, InputError
from onward.training.evaluation.metrics import BEYOND
from onward.training.evaluation.validation import target_ranks
from onward.training.folder_lock import locked
from onward.training.recipe import Recipe
from onward.training.run_folder import WEIGHTS, best_validation, write_history, write_tensors
from onward.training.trainer import Fit, make_optimizers, train
from onward.training.tuning.search_space import with_values
from tests.training.conftest import walks
from tests.training.corpora import corpus


class Killed(BaseException):
    """The process ends here."""


def weights(run: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(run / "weights.pt", weights_only=True)["encoder"]
    return loaded


def assert_equal_runs(one: Path, other: Path) -> None:
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name
    assert [line["loss"] for line in history(one)] == [line["loss"] for line in history(other)]


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(recipe: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(recipe, dataset.folder, out, device_name="cpu")
    return out


def test_training_learns_to_predict_the_next_item(unbroken: Path) -> None:
    metrics = best_validation(unbroken)
    assert metrics["recall@20"] > 0.95  # 20 of 60 items by chance: 0.33
    assert metrics["mrr@20"] > 0.8  # the next item of the circle comes nine times in ten
    losses = [line["loss"] for line in history(unbroken) if line["fit"] == "selection"]
    assert losses[-1] < losses[0]


def test_a_run_folder_holds_its_record(unbroken: Path, recipe: Recipe, dataset: Dataset) -> None:
    record = json.loads((unbroken / "run.json").read_text())
    assert record["seed"] == 1
    assert record["data_fingerprint"] == dataset.info.fingerprint
    assert (unbroken / "recipe.toml").read_text() == recipe.text
    assert (unbroken / "curve.png").read_bytes().startswith(b"\x89PNG")
    selection = [line for line in history(unbroken) if line["fit"] == "selection"]
    refit = [line for line in history(unbroken) if line["fit"] == "refit"]
    best = max(selection, key=lambda line: line["validation"]["recall@20"])
    assert len(refit) == best["epoch"]
    assert len(selection) in (recipe.training.epochs, best["epoch"] + recipe.training.patience)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    unbroken: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    train(recipe, dataset.folder, tmp_path / "again", device_name="cpu")
    assert_equal_runs(unbroken, tmp_path / "again")
    train(recipe, dataset.folder, tmp_path / "other", device_name="cpu", seed=2, epochs=1)
    assert history(tmp_path / "other")[0]["loss"] != history(unbroken)[0]["loss"]


@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.slow), 40, pytest.param(150, marks=pytest.mark.slow)]
)
def test_a_run_interrupted_by_ctrl_c_resumes_to_the_same_result(
    step: int, unbroken: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, gather = tmp_path / "run", 0, Examples.gather

    def gather_and_interrupt(examples: Examples, examples_B: Tensor) -> Batch:
        nonlocal calls
        calls += 1
        if calls == step:
            signal.raise_signal(signal.SIGINT)
        return gather(examples, examples_B)

    monkeypatch.setattr(Examples, "gather", gather_and_interrupt)
    assert not train(recipe, dataset.folder, out, device_name="cpu")
    monkeypatch.undo()
    assert train(recipe, dataset.folder, out, device_name="cpu", resume=True)
    assert_equal_runs(unbroken, out)


@pytest.mark.parametrize("missing", [WEIGHTS, "metrics.jsonl"])
@pytest.mark.parametrize(("refit", "last"), [(True, "refit"), pytest.param(False, "selection", marks=pytest.mark.slow)])
def test_a_run_killed_after_its_last_checkpoint_resumes_to_the_same_result(
    refit: bool,
    last: str,
    missing: str,
    recipe: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe if refit else Recipe.parse(recipe.text.replace("refit = true", "refit = false"), "no refit")
    assert train(recipe, dataset.folder, tmp_path / "whole", device_name="cpu", epochs=2)
    assert [line["epoch"] for line in history(tmp_path / "whole") if line["fit"] == last] == [1, 2]
    out = tmp_path / "run"

    def last_checkpoint_is_written() -> bool:
        checkpoint = out / last / "checkpoint.pt"
        return checkpoint.exists() and torch.load(checkpoint, weights_only=True)["state"]["epoch"] == 2

    def write_tensors_until_killed(path: Path, content: dict[str, Any]) -> None:
        if path.name == missing and last_checkpoint_is_written():
            raise Killed
        write_tensors(path, content)

    def write_history_until_killed(run: Path) -> None:
        if missing == "metrics.jsonl" and last_checkpoint_is_written():
            raise Killed
        write_history(run)

    monkeypatch.setattr("onward.training.trainer.write_tensors", write_tensors_until_killed)
    monkeypatch.setattr("onward.training.trainer.write_history", write_history_until_killed)
    with pytest.raises(Killed):
        train(recipe, dataset.folder, out, device_name="cpu", epochs=2)
    monkeypatch.undo()
    assert train(recipe, dataset.folder, out, device_name="cpu", epochs=2, resume=True)
    assert_equal_runs(tmp_path / "whole", out)
    assert torch.load(out / WEIGHTS, weights_only=True)["fit"] == last


def test_a_finished_run_may_be_resumed_and_stays_as_it_is(
    unbroken: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    written: list[str] = []

    def write_tensors_and_note(path: Path, content: dict[str, Any]) -> None:
        written.append(content["fit"])
        write_tensors(path, content)

    monkeypatch.setattr("onward.training.trainer.write_tensors", write_tensors_and_note)
    assert train(recipe, dataset.folder, out, device_name="cpu", resume=True)
    assert "selection" not in written  # not even for a moment
    assert_equal_runs(unbroken, out)
    assert history(out) == history(unbroken)


def test_a_run_is_never_overwritten_nor_mixed_with_another(unbroken: Path, recipe: Recipe, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="holds a run already; add --resume"):
        train(recipe, dataset.folder, unbroken, device_name="cpu")
    with pytest.raises(InputError, match="started with another seed"):
        train(recipe, dataset.folder, unbroken, device_name="cpu", seed=2, resume=True)


def test_a_run_resumes_with_its_recipe_worded_otherwise_but_not_with_another(
    recipe: Recipe, dataset: Dataset, unbroken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    worded = Recipe.parse(f"# A new comment.\n{recipe.text}", "worded.toml")
    assert train(worded, dataset.folder, run, device_name="cpu", resume=True)
    assert_equal_runs(run, unbroken)
    other = Recipe.parse(recipe.text.replace("learning_rate = ", "learning_rate = 1"), "other.toml")
    with pytest.raises(InputError, match="was started with another recipe"):
        train(other, dataset.folder, run, device_name="cpu", resume=True)


@pytest.fixture
def stepwise(recipe: Recipe) -> Recipe:
    """A recipe whose learning rate does not depend on the number of epochs."""
    (schedule,) = [line for line in recipe.text.splitlines() if line.startswith("schedule")]
    return Recipe.parse(recipe.text.replace(schedule, 'schedule = { kind = "step", every = 2, factor = 0.5 }'), "steps")


@pytest.mark.slow
def test_a_finished_run_can_be_trained_further_to_the_result_of_a_longer_one(
    stepwise: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert train(stepwise, dataset.folder, whole, device_name="cpu", epochs=4)
    assert train(stepwise, dataset.folder, out, device_name="cpu", epochs=2)
    assert train(stepwise, dataset.folder, out, device_name="cpu", epochs=4, resume=True)
    assert_equal_runs(whole, out)
    assert json.loads((out / "run.json").read_text())["epochs"] == 4
    with pytest.raises(InputError, match="was started with another epochs"):
        train(stepwise, dataset.folder, out, device_name="cpu", epochs=3, resume=True)


def test_a_run_that_ended_early_is_not_trained_further(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    lazy = Recipe.parse(recipe.text.replace("learning_rate = 1e-2", "learning_rate = 1e-12"), "lazy")
    assert train(lazy, dataset.folder, tmp_path, device_name="cpu")
    assert len([line for line in history(tmp_path) if line["fit"] == "selection"]) < recipe.training.epochs
    before = weights(tmp_path)
    with pytest.raises(InputError, match=r"ended early, 3 epochs after the best one .* --from "):
        train(lazy, dataset.folder, tmp_path, device_name="cpu", epochs=20, resume=True)
    assert train(lazy, dataset.folder, tmp_path, device_name="cpu", resume=True)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(tmp_path).items())


def test_a_run_that_another_process_trains_is_refused(
    unbroken: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    with locked(run, ""):
        for resume in (False, True):
            with pytest.raises(InputError, match=r"run: is in use by process \d+ on .*; wait until it has ended"):
                train(recipe, dataset.folder, run, device_name="cpu", resume=resume)


def test_a_run_killed_before_it_had_begun_can_be_begun_again(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    with locked(tmp_path, ""):
        (tmp_path / "recipe.toml").write_text(recipe.text)
    assert train(recipe, dataset.folder, tmp_path, device_name="cpu", epochs=1)


def test_a_folder_that_holds_something_else_is_left_as_it_is(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(recipe, dataset.folder, tmp_path, device_name="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_cannot_be_resumed(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(run.json is missing\)"):
        train(recipe, dataset.folder, tmp_path, device_name="cpu", resume=True)


def test_a_damaged_checkpoint_is_an_error_that_names_it(
    recipe: Recipe, dataset: Dataset, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    checkpoint = out / "selection" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoint\.pt: is damaged"):
        train(recipe, dataset.folder, out, device_name="cpu", resume=True)


def test_a_caller_may_end_the_training_after_any_epoch(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    def wants_more(line: dict[str, Any]) -> bool:
        return bool(line["epoch"] < 2)

    train(recipe, dataset.folder, tmp_path, device_name="cpu", on_epoch=wants_more)
    ended = [("selection", 1), ("selection", 2)]
    assert [(line["fit"], line["epoch"]) for line in history(tmp_path)] == ended
    train(recipe, dataset.folder, tmp_path, device_name="cpu", on_epoch=wants_more, resume=True)
    assert [(line["fit"], line["epoch"]) for line in history(tmp_path)] == ended
    assert torch.load(tmp_path / WEIGHTS, weights_only=True)["fit"] == "selection"


@pytest.mark.slow
def test_a_refit_that_the_caller_ends_can_be_resumed(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    train(recipe, dataset.folder, tmp_path / "whole", device_name="cpu", epochs=2)
    out = tmp_path / "run"
    train(recipe, dataset.folder, out, device_name="cpu", epochs=2, on_epoch=lambda line: line["fit"] != "refit")
    assert [(line["fit"], line["epoch"]) for line in history(out)] == [("selection", 1), ("selection", 2), ("refit", 1)]
    assert torch.load(out / WEIGHTS, weights_only=True)["fit"] == "selection"
    train(recipe, dataset.folder, out, device_name="cpu", epochs=2, resume=True)
    assert_equal_runs(tmp_path / "whole", out)


def test_resuming_asks_again_about_an_epoch_whose_answer_was_lost(
    recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    def kill(line: dict[str, Any]) -> bool:
        raise Killed

    asked: list[int] = []

    def end(line: dict[str, Any]) -> bool:
        asked.append(line["epoch"])
        return False

    with pytest.raises(Killed):
        train(recipe, dataset.folder, tmp_path, device_name="cpu", on_epoch=kill)
    train(recipe, dataset.folder, tmp_path, device_name="cpu", on_epoch=end, resume=True)
    assert asked == [line["epoch"] for line in history(tmp_path)] == [1]


def test_a_refit_alone_equals_that_of_a_whole_run(
    unbroken: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    chosen = sum(line["fit"] == "refit" for line in history(unbroken))
    train(recipe, dataset.folder, tmp_path, device_name="cpu", refit_epochs=chosen)
    assert {line["fit"] for line in history(tmp_path)} == {"refit"}
    for name, weight in weights(unbroken).items():
        assert torch.equal(weight, weights(tmp_path)[name]), name


@pytest.mark.slow
def test_sparse_updates_learn_too(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    sampled = '{ kind = "sampled_softmax", negatives = 30, distribution = "log_uniform", log_q = true }'
    text = recipe.text.replace('{ kind = "full_softmax" }', sampled)
    sparse = Recipe.parse(text.replace("sparse_updates = false", "sparse_updates = true"), "sparse")
    train(sparse, dataset.folder, tmp_path, device_name="cpu")
    recalls = [line["validation"]["recall@20"] for line in history(tmp_path) if line["fit"] == "selection"]
    assert max(recalls) > 0.8


@pytest.fixture
def random_cuts(recipe: Recipe) -> Recipe:
    cuts = 'refit = true\nexamples = { kind = "random_cut_per_user", batches = 12, fewest_items = 1 }'
    return Recipe.parse(recipe.text.replace("refit = true", cuts), "random cuts")


@pytest.mark.slow
def test_random_cuts_learn_and_an_interrupted_run_of_them_resumes_to_the_same_result(
    random_cuts: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out, calls, gather = tmp_path / "whole", tmp_path / "run", 0, Examples.gather
    assert train(random_cuts, dataset.folder, whole, device_name="cpu", epochs=8)
    recalls = [line["validation"]["recall@20"] for line in history(whole) if line["fit"] == "selection"]
    assert max(recalls) > 0.8

    def gather_and_interrupt(examples: Examples, examples_B: Tensor) -> Batch:
        nonlocal calls
        calls += 1
        if calls == 17:  # in the second epoch: the first has 12 batches, and one of validation
            signal.raise_signal(signal.SIGINT)
        return gather(examples, examples_B)

    monkeypatch.setattr(Examples, "gather", gather_and_interrupt)
    assert not train(random_cuts, dataset.folder, out, device_name="cpu", epochs=8)
    monkeypatch.undo()
    assert train(random_cuts, dataset.folder, out, device_name="cpu", epochs=8, resume=True)
    assert_equal_runs(whole, out)


def test_an_epoch_of_random_cuts_has_the_given_number_of_batches(
    random_cuts: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    gather = Examples.gather

    def gather_and_count(examples: Examples, examples_B: Tensor) -> Batch:
        sizes.append(len(examples_B))
        return gather(examples, examples_B)

    monkeypatch.setattr(Examples, "gather", gather_and_count)
    train(random_cuts, dataset.folder, tmp_path, device_name="cpu", refit_epochs=2)
    assert sizes == [64] * 24
    (first, _) = history(tmp_path)
    assert first["examples_per_s"] == pytest.approx(12 * 64 / first["seconds"])


def test_a_step_of_adagrad_begins_from_its_initial_accumulator(recipe: Recipe) -> None:
    """With a rate of 0.05 and a gradient of 0.2: 0.05 * 0.2 / sqrt(0.05 + 0.04) is 1 / 30; from 0 it is the rate."""
    for accumulator, step in ((0.05, 1 / 30), (0.0, 0.05)):
        values = {"optimizer": "adagrad", "learning_rate": 0.05, "initial_accumulator": accumulator}
        encoder = recipe.build(corpus(5))
        (optimizer,) = make_optimizers(encoder, recipe.training.model_copy(update=values))
        weight = next(encoder.parameters())
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, 0.2)
        optimizer.step()
        torch.testing.assert_close(before - weight, torch.full_like(weight, step))


def test_an_unavailable_device_is_refused(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    for device in ("tpu", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InputError, match=f"--device {device}"):
            train(recipe, dataset.folder, tmp_path / "run", device_name=device)


@pytest.fixture
def diverging(recipe: Recipe) -> Recipe:
    """The first step has a rate of 0, the later ones rates near 1e30."""
    return Recipe.parse(recipe.text.replace("learning_rate = 1e-2", "learning_rate = 1e30"), "diverging")


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(
    diverging: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(
        Diverged, match=r"the loss is nan after step \d+ of epoch 1 \(selection\), at a learning rate of \d.*e\+\d"
    ) as stopped:
        train(diverging, dataset.folder, tmp_path / "run", device_name="cpu")
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "run" / WEIGHTS).exists()


@pytest.mark.slow
def test_weights_that_the_last_step_of_an_epoch_makes_infinite_are_never_kept(
    recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(fit: Fit, *arguments: Any) -> None:
        train_epoch(fit, *arguments)
        if fit.state.epoch == 1:
            next(fit.encoder.parameters()).data[1] = torch.inf

    train_epoch = Fit._train_epoch
    monkeypatch.setattr(Fit, "_train_epoch", spoil)
    with pytest.raises(Diverged, match=r"weights are not finite after step \d+ of epoch 2 \(selection\)"):
        train(recipe, dataset.folder, tmp_path / "run", device_name="cpu")
    assert all(weight.isfinite().all() for weight in weights(tmp_path / "run").values())
    monkeypatch.undo()
    assert train(recipe, dataset.folder, tmp_path / "run", device_name="cpu", resume=True)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, nan, inf, -inf]), min_size=1, max_size=8), st.data())
def test_a_target_ranks_after_all_that_score_no_lower_and_nowhere_without_a_score(
    scores: list[float], data: st.DataObject
) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    rank = int(target_ranks(torch.tensor([scores]), torch.tensor([target])))
    comparable = sorted((score for score in scores if not isnan(score)), reverse=True)
    if isnan(scores[target]) or scores[target] == -inf:
        assert rank == BEYOND
    else:
        assert rank == len(comparable) - comparable[::-1].index(scores[target])


def test_weights_of_events_change_a_training_if_the_recipe_asks_for_them(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = walks(40, seed=2).with_columns(weight=1.0 + pl.int_range(pl.len()) % 3)
    events.write_parquet(tmp_path / "events.parquet")
    options = Preparation(split=SplitKind.TEMPORAL, min_support=1, min_length=2, validation=0.1, test_share=0.1)
    prepare([str(tmp_path / "events.parquet")], tmp_path / "dataset", options)
    losses, said = {}, {}
    for weighs in (False, True):
        asked = Recipe.parse(with_values(recipe.text, {"training.weigh_targets": weighs}), "recipe.toml")
        train(asked, tmp_path / "dataset", tmp_path / str(weighs), device_name="cpu", epochs=1)
        losses[weighs] = [line["loss"] for line in history(tmp_path / str(weighs))]
        said[weighs] = "targets are weighed" in capsys.readouterr().err
    assert losses[False] != losses[True]
    assert said == {False: False, True: True}
