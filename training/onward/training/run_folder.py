"""The folder of a training run.

It holds `recipe.toml`, `run.json` (data, options and machine of the run), `metrics.jsonl` (a line per epoch),
`curve.png`, `selection/` (the validated fit), `refit/` (the fit to all examples, if the recipe asks for it) and
`weights.pt`, the weights to export and the fit they come from: the best epoch so far, until a refit ends. A fit writes
its checkpoint first. What follows from it (`weights.pt`, `metrics.jsonl`, `curve.png`) is written anew on resuming, so
a run killed in between loses nothing. Its `.lock` is held by the process that trains.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from onward.training.data.dataset import Dataset, Sessions
from onward.training.errors import InputError
from onward.training.folder_lock import LOCK, locked
from onward.training.hardware import commit, machine
from onward.training.learning_curve import draw_curve
from onward.training.recipe import Recipe

WEIGHTS = "weights.pt"
FITS = SELECTION, REFIT = "selection", "refit"


@contextmanager
def locked_run_folder(out: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run folder, so that no other process trains in it; without `resume` it is created.

    Raises InputError if another process holds it, if there is no run to resume, or if the folder holds something else.
    """
    if resume:
        read_run(out)
    elif out.exists() and any(out.iterdir()) and not ((out / LOCK).exists() or (out / "run.json").exists()):
        raise InputError(f"{out}: is not empty and holds no run; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "wait until it has ended, or name another folder"):
        yield


def prepare_run_folder(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    epochs: int,
    refit_epochs: int | None,
    seed: int,
    device: torch.device,
    resume: bool,
) -> None:
    """Begin a run in its folder, or with `resume` check that the run there has the same recipe, data set and options.

    Raises InputError if they differ, or if there is a run and `resume` is not set.
    """
    facts = {
        "data_fingerprint": dataset.info.fingerprint,
        "epochs": epochs,
        "refit_epochs": refit_epochs,
        "seed": seed,
    }
    if resume:
        record = read_run(out)
        others = [name for name, value in facts.items() if record[name] != value]
        if not recipe.has_settings_of(record["recipe"]):
            others.insert(0, "recipe")
        if others:
            raise InputError(f"{out}: this run was started with another {others[0]}; start a new one without --resume")
        return
    if (out / "run.json").exists():
        raise InputError(f"{out}: holds a run already; add --resume to go on with it, or name another folder")
    record = {
        "recipe": recipe.text,
        **facts,
        "recipe_name": recipe.name,
        "model": recipe.model,
        "commit": commit(),
        "data": str(dataset.folder.resolve()),
        "processor": machine()["processor"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (out / "recipe.toml").write_text(recipe.text, encoding="utf-8")
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def sessions_of_fit(dataset: Dataset, fit: str) -> list[Sessions]:
    """Return the sessions that a fit learns from."""
    return dataset.training_and_validation() if fit == REFIT else [dataset.sessions("train")]


def read_run(out: Path) -> dict[str, Any]:
    """Read `run.json` of a run folder. Raises InputError if it is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{out}: holds no run (run.json is missing); give the --out folder of a training") from error
    except ValueError as error:
        raise InputError(f"{out / 'run.json'}: is damaged: {error}") from error
    return record


def best_validation(out: Path) -> dict[str, float]:
    """Return the validation metrics of the epoch that a run chose; empty if nothing was held out."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metric = Recipe.parse(read_run(out)["recipe"], str(out)).training.validation_metric
    validated = [line["validation"] for line in lines if "validation" in line]
    best: dict[str, float] = max(validated, key=lambda validation: validation[metric], default={})
    return best


def checkpoint_of(out: Path, fit: str) -> Path:
    """Return the path of the checkpoint of a run's fit."""
    return out / fit / "checkpoint.pt"


def write_history(out: Path) -> None:
    """Write `metrics.jsonl` and `curve.png` from the checkpoints of the run."""
    history = []
    for fit in FITS:
        checkpoint = checkpoint_of(out, fit)
        if checkpoint.exists():
            history += torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state"]["history"]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
    draw_curve(history, out / "curve.png")


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a file of tensors atomically."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def read_tensors(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a file of `write_tensors` without executing code in it. Raises InputError if it is damaged."""
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise InputError(f"{path}: is damaged; remove its folder and train again") from error
    return content
