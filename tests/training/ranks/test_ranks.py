"""Ranks of torchrun compute what one process computes, and end, are killed and resumed together."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from onward.training.data.dataset import Dataset
from onward.training.errors import InputError, RankError
from onward.training.models import MODELS
from onward.training.ranks.ranks import Ranks
from onward.training.recipe import Recipe
from onward.training.run_folder import read_history, read_tensors
from onward.training.trainer import shard_items, train
from tests.contract.test_every_model import VARIANTS
from tests.training.corpora import corpus
from tests.training.ranks.torchrun import command, environment, torchrun

LEARNT = [name for name in VARIANTS if name != "knn"]
WITHOUT_CHANCE = [
    "srgnn",
    "srgnn, item graph",
    "sasrec",
    "mind, improved",
    "comirec_sa, improved",
    "comirec_dr, improved",
]
"""Forms whose loss of a batch draws no random numbers without dropout, and is a mean of those of its targets."""


def distances(ranks: int, batch: int, form: str, names: list[str]) -> dict[str, dict[str, float]]:
    ended = torchrun(ranks, "tests.training.ranks.gradients", str(batch), form, *names)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    return dict(json.loads(ended.stdout.splitlines()[-1]))


SHARDED = ["srgnn", "sasrec", "mind", "mind, improved", "comirec_sa", "comirec_sa, improved", "comirec_dr", "re4"]


@pytest.mark.slow
def test_the_gradients_of_two_ranks_are_those_of_one_process_that_takes_the_whole_batch() -> None:
    found = distances(2, 33, "still,sharded", ["srgnn", "sasrec", "mind, improved"])
    assert len(found) == 6
    for name, apart in found.items():
        assert apart["whole"] < 5e-6, (name, apart)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["still", "sharded"])
def test_the_gradients_of_four_ranks_are_those_of_one_process_that_takes_the_whole_batch(form: str) -> None:
    names = [name for name in WITHOUT_CHANCE if "item graph" not in name or form == "still"]
    for name, apart in distances(4, 33, form, names).items():
        assert apart["whole"] < 5e-6, (name, apart)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "batch", "form", "names"),
    [
        (2, 37, "dense", LEARNT),
        (4, 3, "dense", LEARNT),
        (2, 37, "sparse", ["srgnn, improved", "mind", "comirec_sa", "re4", "attrec, improved"]),
        (2, 37, "sharded", SHARDED),
        (4, 3, "sharded", SHARDED),
        (2, 37, "sharded-sparse", ["srgnn, improved", "mind", "comirec_sa", "re4"]),
    ],
)
def test_the_gradients_of_every_model_are_those_of_the_slices_in_turn(
    ranks: int, batch: int, form: str, names: list[str]
) -> None:
    for name, apart in distances(ranks, batch, form, names).items():
        assert apart["in_turn"] < 5e-6, (name, apart)


@pytest.fixture
def files(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> Path:
    """A folder with a recipe without a refit, whose steps draw no random numbers and whose learning rate stays."""
    text = recipe.text.replace("dropout = 0.1", "dropout = 0.0").replace("refit = true", "refit = false")
    text = re.sub("schedule = .*", 'schedule = { kind = "step", every = 1, factor = 1.0 }', text)
    assert "dropout = 0.0" in text
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "sharded.toml").write_text(text.replace("[training]", '[training]\ntable = "sharded"'))
    return tmp_path


def arguments(files: Path, dataset: Dataset, out: str, *options: str, recipe: str = "recipe.toml") -> list[str]:
    training = ["train", str(files / recipe), "--data", str(dataset.folder), "--out", str(files / out)]
    return ["onward.training", *training, "--device", "cpu", "--epochs", "2", *options]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{"loss": line["loss"], **line["validation"]} for line in read_history(run)]


def assert_alike(one: Path, other: Path) -> None:
    """The same course within rounding, which products in bfloat16 and two epochs of steps make larger."""
    for line, expected in zip(metrics(one), metrics(other), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=0.02)
        assert line["recall@20"] == pytest.approx(expected["recall@20"], abs=0.05)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(files: Path, dataset: Dataset) -> None:
    ended = torchrun(2, *arguments(files, dataset, "two"))
    assert ended.returncode == 0, ended.stderr[-3_000:]
    assert ended.stderr.count("selection epoch 1:") == 1  # rank 0 alone reports
    assert train(Recipe.load(files / "recipe.toml"), dataset.folder, files / "one", epochs=2, device_name="cpu")
    assert_alike(files / "two", files / "one")
    assert train(  # one process goes on with what two began
        Recipe.load(files / "recipe.toml"), dataset.folder, files / "two", epochs=3, device_name="cpu", resume=True
    )
    assert [line["epoch"] for line in read_history(files / "two")] == [1, 2, 3]


@pytest.mark.slow
def test_ranks_of_another_number_go_on_with_a_run(files: Path, dataset: Dataset) -> None:
    assert torchrun(4, *arguments(files, dataset, "run", "--epochs", "1")).returncode == 0
    checkpoint = read_tensors(files / "run" / "selection" / "checkpoint.pt", torch.device("cpu"))
    states = [checkpoint["random"]["cpu"], *(state["cpu"] for state in checkpoint["random_of_others"])]
    assert len({state.numpy().tobytes() for state in states}) == 4
    for ranks, epochs in ((2, 2), (4, 3)):
        ended = torchrun(ranks, *arguments(files, dataset, "run", "--epochs", str(epochs), "--resume"))
        assert ended.returncode == 0, ended.stderr[-3_000:]
    assert train(Recipe.load(files / "recipe.toml"), dataset.folder, files / "one", epochs=3, device_name="cpu")
    assert_alike(files / "run", files / "one")


@pytest.mark.slow
def test_ranks_that_own_rows_train_as_one_process_does_and_write_the_same_files(
    files: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ranks, options in ((2, ["--epochs", "1"]), (4, ["--epochs", "2", "--resume"])):
        ended = torchrun(ranks, *arguments(files, dataset, "sharded", *options, recipe="sharded.toml"))
        assert ended.returncode == 0, ended.stderr[-3_000:]
    recipe = Recipe.load(files / "sharded.toml")
    assert train(recipe, dataset.folder, files / "one", epochs=2, device_name="cpu")
    assert_alike(files / "sharded", files / "one")
    assert not list((files / "sharded" / "selection").glob(".tables-*"))
    for file in ("weights.pt", "selection/checkpoint.pt"):
        shapes, expected = (
            shapes_of(read_tensors(files / run / file, torch.device("cpu"))) for run in ("sharded", "one")
        )
        shapes.pop("random_of_others", None)
        assert {name: shape for name, shape in shapes.items() if "random" not in name} == {
            name: shape for name, shape in expected.items() if "random" not in name
        }
    assert train(recipe, dataset.folder, files / "sharded", epochs=3, device_name="cpu", resume=True)


def shapes_of(value: Any, name: str = "") -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return {name: tuple(value.shape)}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path: shape for key, part in parts for path, shape in shapes_of(part, f"{name}/{key}").items()}


@pytest.mark.slow
def test_validation_by_ranks_that_own_rows_is_that_of_one_process(files: Path, dataset: Dataset) -> None:
    """A learning rate of nothing, so that all validate the same weights, with hidden items and without."""
    for exclude_seen in ("false", "true", '"last"'):
        text = (files / "sharded.toml").read_text().replace("learning_rate = 1e-2", "learning_rate = 1e-30")
        name = re.sub(r"\W", "", exclude_seen)
        (files / f"{name}.toml").write_text(text.replace("exclude_seen = false", f"exclude_seen = {exclude_seen}"))
        ended = torchrun(2, *arguments(files, dataset, f"two-{name}", "--epochs", "1", recipe=f"{name}.toml"))
        assert ended.returncode == 0, ended.stderr[-3_000:]
        recipe = Recipe.load(files / f"{name}.toml")
        assert train(recipe, dataset.folder, files / f"one-{name}", epochs=1, device_name="cpu")
        (line,), (expected,) = metrics(files / f"two-{name}"), metrics(files / f"one-{name}")
        assert line["mrr@20"] == pytest.approx(expected["mrr@20"], abs=1e-9)
        assert line["recall@20"] == pytest.approx(expected["recall@20"], abs=1e-9)


def test_an_encoder_that_needs_all_rows_cannot_be_sharded(recipe: Recipe) -> None:
    for name, reason in (
        ("srgnn, item graph", "encoder.item_graph mixes the rows of neighbours"),
        ("mvcrec", "a srgnn computes with its whole item table"),
        ("attrec", "a srgnn computes with its whole item table"),
    ):
        model, options = VARIANTS[name]
        encoder = MODELS[model].encoder(corpus(12, users=3), options)
        with pytest.raises(InputError, match=f'training.table "sharded": {reason}; use "whole"'):
            shard_items(recipe, encoder, Ranks(0, 2))


@pytest.mark.slow
def test_ranks_go_on_from_the_checkpoint_after_one_was_killed(files: Path, dataset: Dataset) -> None:
    started = command(2, *arguments(files, dataset, "run", "--epochs", "6"), options=["--max-restarts", "1"])
    with subprocess.Popen(started, env=environment(), stderr=subprocess.PIPE, text=True) as launcher:
        wait_for(files / "run" / "selection" / "checkpoint.pt")
        os.kill(worker_of(launcher.pid, rank=1), signal.SIGKILL)
        _, stderr = launcher.communicate()
    assert launcher.returncode == 0, stderr[-3_000:]
    assert [line["epoch"] for line in read_history(files / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_after_the_same_step(files: Path, dataset: Dataset, number: signal.Signals) -> None:
    started = command(2, *arguments(files, dataset, "run", "--epochs", "500"))
    with subprocess.Popen(started, env=environment(), stderr=subprocess.PIPE, text=True) as launcher:
        wait_for(files / "run" / "selection" / "checkpoint.pt")
        os.kill(launcher.pid, number)
        _, stderr = launcher.communicate()
    assert "interrupted; resume with the same command and --resume" in stderr
    assert "KeyboardInterrupt" not in stderr
    epochs = len(read_history(files / "run"))
    state = read_tensors(files / "run" / "selection" / "checkpoint.pt", torch.device("cpu"))["state"]
    assert state["epoch"] == epochs < 500


@pytest.mark.slow
def test_one_rank_says_why_none_goes_on(files: Path, dataset: Dataset) -> None:
    ended = torchrun(2, *arguments(files, dataset, "nan"))
    assert ended.returncode == 0
    again = torchrun(2, *arguments(files, dataset, "nan"))
    assert again.returncode != 0
    assert again.stderr.count("error: ") == 1
    assert "holds a run already" in again.stderr
    diverging = (files / "recipe.toml").read_text().replace("learning_rate = 1e-2", "learning_rate = 1e30")
    (files / "recipe.toml").write_text(diverging)
    ended = torchrun(2, *arguments(files, dataset, "diverged"))
    assert ended.stderr.count("error: ") == 1
    assert "diverged" in ended.stderr


def test_only_train_has_ranks(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    ended = subprocess.run(
        [*command(1)[:1], "-m", "onward.training", "baselines", "--data", str(dataset.folder)],
        env={**environment(), "RANK": "0", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == ("error: baselines: runs in one process; start it without torchrun, only train has ranks\n")


def test_the_environment_of_a_launcher_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.of_environment() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="RANK 3 is not below WORLD_SIZE 3"):
        Ranks.of_environment()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(InputError, match="must be numbers"):
        Ranks.of_environment()
    with pytest.raises(RankError, match="rank 1: this machine has 0 CUDA devices"):
        Ranks(1, 2, local_rank=1).device(torch.device("cuda"))


def test_a_rank_without_the_others_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    monkeypatch.setenv("MASTER_PORT", "no number")
    with pytest.raises(RankError, match="rank 1: another rank has ended or cannot be reached"):  # noqa: SIM117
        with Ranks(1, 2).joined(torch.device("cpu")):
            pass


def wait_for(file: Path, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < ends, f"{file} is missing"
        time.sleep(0.05)


def worker_of(launcher: int, rank: int) -> int:
    """Return the process of a rank."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == launcher and f"RANK={rank}".encode() in variables:
                return int(entry.name)
    raise AssertionError(f"rank {rank} does not run")
