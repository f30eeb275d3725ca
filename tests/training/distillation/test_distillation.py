"""An encoder learns from runs and bundles of its dataset, none of which knows what it is asked."""

import json
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from onward.bundle import read_manifest
from onward.training.cli import cli
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.data.soft_targets import SoftTargetTable
from onward.training.distillation import stored_targets
from onward.training.distillation.stored_targets import PROGRESS, ROWS, SHARES
from onward.training.distillation.teachers import FOLDS, open_teachers
from onward.training.errors import InputError
from onward.training.evaluation.validation import exact_scores
from onward.training.models.nearest_sessions import NearestSessionsEncoder
from onward.training.recipe import RECIPES, Recipe
from onward.training.run_folder import REFIT, SELECTION, read_run
from onward.training.trained_run import fitted_to_training
from onward.training.trainer import train
from tests.training.test_trainer import assert_equal_runs


def with_text(recipe: Recipe, *changes: tuple[str, str]) -> Recipe:
    text = recipe.text
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return Recipe.parse(text, "changed")


@pytest.fixture(scope="module")
def student(recipe: Recipe) -> Recipe:
    """Two epochs and no refit."""
    return with_text(recipe, ("epochs = 6", "epochs = 2"), ("refit = true", "refit = false"))


@pytest.fixture(scope="module")
def knn(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("knn") / "run"
    assert train(Recipe.load(Path("knn")), dataset.folder, out, device_name="cpu")
    return out


@pytest.fixture(scope="module")
def unrefitted(student: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a refit."""
    out = tmp_path_factory.mktemp("unrefitted") / "run"
    assert train(student, dataset.folder, out, device_name="cpu")
    return out


@pytest.fixture(scope="module")
def taught(student: Recipe, dataset: Dataset, run: Path, knn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a network and nearest sessions as teachers."""
    out = tmp_path_factory.mktemp("taught") / "run"
    assert train(student, dataset.folder, out, device_name="cpu", teachers=[run, knn])
    return out


def stored(folder: Path) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.load(folder / ROWS).astype(np.int64)),
        torch.from_numpy(np.load(folder / SHARES).astype(np.float32)),
    )


def nearest_sessions(knn: Path, dataset: Dataset) -> NearestSessionsEncoder:
    fitted = fitted_to_training(knn, dataset)
    assert fitted is not None
    assert isinstance(fitted.encoder, NearestSessionsEncoder)
    return fitted.encoder


def test_the_best_items_of_a_teacher_are_stored_with_their_probabilities(
    student: Recipe, dataset: Dataset, run: Path, tmp_path: Path
) -> None:
    assert train(student, dataset.folder, tmp_path / "run", device_name="cpu", teachers=[run], epochs=1)
    rows_ES, shares_ES = stored(tmp_path / "run" / SELECTION)
    fitted = fitted_to_training(run, dataset)
    assert fitted is not None
    encoder = fitted.encoder
    examples = Examples.of([dataset.sessions("train")], encoder.max_length, torch.device("cpu"))
    with torch.inference_mode():
        scores_EN = encoder(examples.gather(torch.arange(len(examples))).items_BL)[:, 0] @ encoder.item_vectors().T
    expected_ES, best_ES = scores_EN[:, 1:].softmax(dim=1).topk(40, dim=1)
    assert rows_ES.shape == (len(examples), 40)
    assert (rows_ES == best_ES + 1).float().mean() > 0.99  # but for the order of nearly equal shares
    torch.testing.assert_close(shares_ES, expected_ES / expected_ES.sum(dim=1, keepdim=True), atol=1e-3, rtol=1e-2)
    assert torch.equal(examples.targets_E.unique(), examples.targets_E)


def test_teachers_of_several_kinds_are_averaged_and_change_what_is_learnt(
    taught: Path, unrefitted: Path, dataset: Dataset
) -> None:
    _, shares_ES = stored(taught / SELECTION)
    torch.testing.assert_close(shares_ES.sum(dim=1), torch.ones(len(shares_ES)), atol=5e-3, rtol=0)
    assert len(read_run(taught)["teachers"]) == 2
    one, other = fitted_to_training(taught, dataset), fitted_to_training(unrefitted, dataset)
    assert one is not None
    assert other is not None
    assert not torch.equal(one.encoder.item_vectors(), other.encoder.item_vectors())


def test_nearest_sessions_do_not_teach_a_session_by_itself(dataset: Dataset, knn: Path) -> None:
    (teacher,) = open_teachers([knn], dataset, SELECTION)
    train_part = dataset.sessions("train")
    examples = Examples.of([train_part], teacher.max_length, torch.device("cpu"))
    session_E = np.searchsorted(train_part.offsets, examples.begins_E.numpy(), side="right") - 1
    first_of_fold = torch.from_numpy(np.flatnonzero(session_E % FOLDS == 2))[:8]
    scores_BN = teacher.scores(examples.gather(first_of_fold), 2)

    bounds = list(pairwise(train_part.offsets.tolist()))
    others = [train_part.rows[start:end] for number, (start, end) in enumerate(bounds) if number % FOLDS != 2]
    lengths = [0, *map(len, others)]
    others_part = replace(train_part, rows=np.concatenate(others), offsets=np.cumsum(lengths))
    recipe = Recipe.load(Path("knn"))
    torch.manual_seed(2)
    encoder = recipe.build(Corpus.of(dataset, [others_part]))
    expected_BN = exact_scores(encoder, examples.gather(first_of_fold), encoder.item_vectors().T)
    torch.testing.assert_close(scores_BN, expected_BN, atol=1e-4, rtol=0)


def test_a_training_interrupted_while_teachers_are_asked_resumes_to_the_same_result(
    taught: Path,
    student: Recipe,
    dataset: Dataset,
    run: Path,
    knn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, calls, best = tmp_path / "run", 0, stored_targets._best

    def best_and_interrupt(*arguments: object) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return best(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stored_targets, "_best", best_and_interrupt)
    assert not train(student, dataset.folder, out, device_name="cpu", teachers=[run, knn])
    assert json.loads((out / SELECTION / PROGRESS).read_text())["batches"] == 3
    assert train(student, dataset.folder, out, device_name="cpu", resume=True)
    assert_equal_runs(taught, out)
    total = calls
    assert train(student, dataset.folder, out, device_name="cpu", resume=True)
    assert calls == total  # what is complete is not asked again


def test_a_refit_asks_the_teachers_about_all_examples(
    student: Recipe, dataset: Dataset, run: Path, tmp_path: Path
) -> None:
    refitted = with_text(student, ("refit = false", "refit = true"))
    assert train(refitted, dataset.folder, tmp_path / "run", device_name="cpu", teachers=[run], epochs=1)
    of_selection, of_refit = (len(stored(tmp_path / "run" / fit)[0]) for fit in ("selection", "refit"))
    assert of_refit > of_selection


@pytest.mark.parametrize("model", ["sasrec", "mvcrec", "comirec_sa", "comirec_dr", "mind", "re4"])
def test_other_encoders_learn_from_teachers_too(model: str, dataset: Dataset) -> None:
    text = (RECIPES / f"{model}.toml").read_text()
    sampled = next((line for line in text.splitlines() if line.startswith('objective = { kind = "sampled')), "")
    text = text.replace(sampled, 'objective = { kind = "full_softmax" }') if sampled else text
    recipe = Recipe.parse(text.replace("sparse_updates = true", "sparse_updates = false"), model)
    assert recipe.takes_teachers
    sessions = [dataset.sessions("train")]
    encoder = recipe.build(Corpus.of(dataset, sessions)).eval()
    examples = Examples.of(sessions, encoder.max_length, torch.device("cpu"), every_position=encoder.every_position)
    events = len(examples.rows)
    rows_ES = np.tile(np.arange(1, 6), (events, 1))
    table = SoftTargetTable(rows_ES, np.full((events, 5), 0.2, np.float16), np.arange(events), events, weight=1.0)
    batch_B = torch.arange(8)
    alone, taught = (some.gather(batch_B) for some in (examples, replace(examples, soft_targets=table)))
    assert encoder.loss(alone).item() != encoder.loss(taught).item()


def test_a_bundle_teaches_unless_it_knows_the_validation_part(
    student: Recipe, dataset: Dataset, exported: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"--teacher .*: has learnt from the validation part, or may have"):
        train(student, dataset.folder, tmp_path / "refused", device_name="cpu", teachers=[exported])
    for name, teacher in (("bundle", exported), ("run", run)):
        assert train(student, dataset.folder, tmp_path / name, device_name="cpu", teachers=[teacher], refit_epochs=1)
    (_, of_bundle), (_, of_run) = (stored(tmp_path / name / REFIT) for name in ("bundle", "run"))
    torch.testing.assert_close(of_bundle, of_run, atol=2e-3, rtol=0)

    manifest, name = read_manifest(exported / "current")
    assert manifest.metrics
    validated = manifest.model_copy(update={"recipe": student.text})
    monkeypatch.setattr("onward.training.distillation.teachers.read_manifest", lambda folder: (validated, name))
    assert open_teachers([exported], dataset, SELECTION)


def test_what_cannot_teach_is_refused_in_one_line(
    student: Recipe,
    dataset: Dataset,
    run: Path,
    exported: Path,
    knn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**record, "data_fingerprint": "f" * 64}))

    def refused(*arguments: object) -> str:
        command = ["train", *map(str, arguments), "--data", str(dataset.folder), "--out", str(tmp_path / "out")]
        error = CliRunner().invoke(cli, command).exception
        assert isinstance(error, InputError)
        assert "\n" not in str(error)
        return str(error)

    recipe = tmp_path / "student.toml"
    recipe.write_text(student.text)
    assert refused(recipe, "--teacher", other).endswith(f"was made from another dataset than {dataset.folder}")
    assert "is neither a run nor a bundle" in refused(recipe, "--teacher", tmp_path)
    assert "objective must be a full_softmax" in refused("attrec", "--teacher", run)
    assert "objective must be a full_softmax" in refused("knn", "--teacher", run)
    assert not (tmp_path / "out" / "run.json").exists()
    manifest, name = read_manifest(exported / "current")
    joined = manifest.model_copy(update={"nearest_sessions": nearest_sessions(knn, dataset).info})
    monkeypatch.setattr("onward.training.distillation.teachers.read_manifest", lambda folder: (joined, name))
    assert refused(recipe, "--teacher", exported).endswith("would find those to be taught; name its runs")


def test_a_run_resumes_with_its_own_teachers_only(
    student: Recipe, dataset: Dataset, taught: Path, unrefitted: Path
) -> None:
    with pytest.raises(InputError, match="was started with another --teacher"):
        train(student, dataset.folder, taught, device_name="cpu", teachers=[unrefitted], resume=True)
