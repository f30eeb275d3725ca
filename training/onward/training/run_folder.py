"""The folder of a training run.

It holds `recipe.toml`, `run.json` (data, options and machine of the run), `metrics.jsonl` (a line per epoch),
`curve.png`, `selection/` (the validated fit), `refit/` (the fit to all examples, if the recipe asks for it) and
`weights.pt`, the weights to export and the fit they come from: the best epoch so far, until a refit ends. A fit writes
its checkpoint first. What follows from it (`weights.pt`, `metrics.jsonl`, `curve.png`) is written anew on resuming, so
a run killed in between loses nothing. `start.pt` holds the weights that its fits begin with, if they are those of
another run. `selection/` and `refit/` also hold what teachers think of their examples, if there are teachers, which
`run.json` names. A checkpoint also holds the content of `run.json`, which is restored from it.
All files are written atomically. `.lock` is held by the process that trains.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from onward.training.atomic_file import replacement, write_text
from onward.training.data.dataset import Dataset, Sessions
from onward.training.errors import InputError
from onward.training.folder_lock import LOCK, locked
from onward.training.hardware import commit, machine
from onward.training.learning_curve import draw_curve
from onward.training.recipe import Recipe

WEIGHTS = "weights.pt"
FITS = SELECTION, REFIT = "selection", "refit"
RUN_FILE, HISTORY = "run.json", "metrics.jsonl"
FACTS = ("recipe", "data_fingerprint", "epochs", "refit_epochs", "seed")
"""What a run is resumed with."""


@contextmanager
def locked_run_folder(out: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run folder, so that no other process trains in it; without `resume` it is created.

    Raises InputError if another process holds it, if there is no run to resume, or if the folder holds something else.
    """
    holds_run = (out / RUN_FILE).exists() or any(checkpoint_of(out, fit).exists() for fit in FITS)
    if resume and not holds_run:
        raise InputError(f"{out}: holds no run ({RUN_FILE} is missing); give the --out folder of a training")
    if not holds_run and out.exists() and any(out.iterdir()) and not (out / LOCK).exists():
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
    start: Path | None,
    teachers: Mapping[str, str],
    resume: bool,
    on_mended: Callable[[str], object],
) -> None:
    """Begin a run in its folder, or with `resume` check that the run there has the same recipe, data set and options.

    With `resume`, a damaged file that checkpoints can replace is mended, and `on_mended` called with a line about it.
    More `epochs` than before extend the run: its refit is removed, to be made anew.

    Raises InputError if they differ, if the run ended early and cannot be extended, or if there is a run and `resume`
    is not set.
    """
    started_from = None if start is None else str(start.resolve())
    facts = {
        "data_fingerprint": dataset.info.fingerprint,
        "epochs": epochs,
        "refit_epochs": refit_epochs,
        "seed": seed,
    }
    record = _resumed_run(out, on_mended) if resume else None
    if record is not None:
        extends = refit_epochs is None and epochs > record["epochs"]
        others = [name for name, value in facts.items() if record[name] != value and not (extends and name == "epochs")]
        if started_from not in (None, record.get("start")):
            others.append("--from")
        if teachers and teachers != record.get("teachers"):
            others.append("--teacher")
        if not recipe.has_settings_of(record["recipe"]):
            others.insert(0, "recipe")
        if others:
            raise InputError(f"{out}: this run was started with another {others[0]}; start a new one without --resume")
        _mend_history(out, on_mended)
        if extends:
            _extend(out, record, epochs, recipe.training.patience)
        return
    if not resume and (out / RUN_FILE).exists():
        raise InputError(f"{out}: holds a run already; add --resume to go on with it, or name another folder")
    record = {
        "recipe": recipe.text,
        **facts,
        "recipe_name": recipe.name,
        "start": started_from,
        "teachers": dict(teachers),
        "model": recipe.model,
        "commit": commit(),
        "data": dataset.source,
        "processor": machine()["processor"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(out / "recipe.toml", recipe.text)
    write_run(out, record)


def _extend(out: Path, record: dict[str, Any], epochs: int, patience: int) -> None:
    selection = checkpoint_of(out, SELECTION)
    if selection.exists():
        state = read_tensors(selection, torch.device("cpu"), mmap=True)["state"]
        if state["epoch"] - state["best_epoch"] >= patience:
            raise InputError(
                f"{out}: ended early, {patience} epochs after the best one (training.patience), and would do so again; "
                f"begin another run with its weights: --from {out}"
            )
    shutil.rmtree(out / REFIT, ignore_errors=True)
    write_run(out, {**record, "epochs": epochs})


def sessions_of_fit(dataset: Dataset, fit: str) -> list[Sessions]:
    """Return the sessions that a fit learns from."""
    return dataset.training_and_validation() if fit == REFIT else [dataset.sessions("train")]


def read_run(out: Path) -> dict[str, Any]:
    """Read `run.json` of a run folder. Raises InputError if it is missing or damaged."""
    file = out / RUN_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{out}: holds no run ({RUN_FILE} is missing); give the --out folder of a training") from error
    except ValueError as error:
        raise InputError(f"{file}: is damaged; `onward-training train ... --resume` restores it") from error
    if not isinstance(record, dict) or not all(name in record for name in FACTS):
        raise InputError(f"{file}: is damaged; `onward-training train ... --resume` restores it")
    return record


def write_run(out: Path, record: dict[str, Any]) -> None:
    """Write `run.json` of a run folder."""
    write_text(out / RUN_FILE, json.dumps(record, indent=2) + "\n")


def _resumed_run(out: Path, on_mended: Callable[[str], object]) -> dict[str, Any] | None:
    """Return the content of `run.json`, restored from a checkpoint if need be; None if nothing has been trained yet.

    Raises InputError if it is damaged, and the checkpoints of an earlier version do not hold it.
    """
    with suppress(InputError):
        return read_run(out)
    checkpoints = [checkpoint for fit in FITS if (checkpoint := checkpoint_of(out, fit)).exists()]
    if not checkpoints:
        on_mended(f"{out / RUN_FILE}: was damaged; nothing was trained yet, so the run begins anew")
        return None
    record: dict[str, Any] | None = read_tensors(checkpoints[0], torch.device("cpu"), mmap=True).get("run")
    if record is None:
        raise InputError(f"{out / RUN_FILE}: is damaged, and no checkpoint holds it; train again in another folder")
    write_run(out, record)
    on_mended(f"{out / RUN_FILE}: was damaged; restored from {checkpoints[0]}")
    return record


def _mend_history(out: Path, on_mended: Callable[[str], object]) -> None:
    if not (out / HISTORY).exists():
        return  # a run may be killed before its first epoch is recorded
    try:
        read_history(out)
    except InputError:
        write_history(out)
        on_mended(f"{out / HISTORY}: was damaged; written anew from the checkpoints")


def read_history(out: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl` of a run folder, a line for each epoch. Raises InputError if it is missing or damaged."""
    file = out / HISTORY
    try:
        text = file.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
    except FileNotFoundError as error:
        raise InputError(f"{out}: no epoch is complete yet; go on with `onward-training train ... --resume`") from error
    except ValueError as error:
        raise InputError(f"{file}: is damaged; `onward-training train ... --resume` writes it anew") from error
    if not f"\n{text}".endswith("\n") or not all(
        isinstance(line, dict) and {"fit", "epoch"} <= line.keys() for line in lines
    ):
        raise InputError(f"{file}: is damaged; `onward-training train ... --resume` writes it anew")
    return lines


def best_validation(out: Path) -> dict[str, float]:
    """Return the validation metrics of the epoch that a run chose; empty if nothing was held out."""
    lines = read_history(out)
    if not lines:
        raise InputError(f"{out / HISTORY}: is empty; `onward-training train ... --resume` writes it anew")
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
            history += read_tensors(checkpoint, torch.device("cpu"), mmap=True)["state"]["history"]
    write_text(out / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
    with replacement(out / "curve.png") as temporary:
        draw_curve(history, temporary)


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a file of tensors atomically."""
    with replacement(path) as temporary, temporary.open("wb") as file:  # torch would hide why a path cannot be written
        torch.save(content, file)


def read_tensors(path: Path, device: torch.device, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file of `write_tensors` without executing code in it; with `mmap` only what is used of it.

    Raises InputError if it is damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise InputError(f"{path}: is damaged; remove its folder and train again") from error
    return content
