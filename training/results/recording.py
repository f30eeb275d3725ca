"""Evaluations that leave a record: a run's by its bundle, and that of the baselines."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from service.bundle import Bundle, Manifest, read_manifest
from training.data.dataset import Dataset
from training.errors import InputError
from training.evaluation import evaluate_baselines, evaluate_bundle
from training.machine import machine
from training.recipe import Recipe
from training.results.record import BaselinesRecord, Epoch, RunRecord, TrainedOn
from training.run_folder import REFIT, SELECTION, best_validation, commit, read_run

TIMED_CALLS, TIMED_LENGTH = 300, 20


def evaluate_and_record(folder: Path, data: Path, run: Path, records: Path) -> dict[str, Any]:
    """Evaluate a bundle on the test part, as `evaluate_bundle` does, and record it with the run that it came from.

    Args:
        folder: a bundle, or a folder of bundles, meaning its current one.
        data: a dataset.
        run: the folder of the training.
        records: where records are kept, below it a folder for each data set.

    Raises:
        InputError: the bundle is not of this run, the run not of this data set or not at its end.
        BundleError: the bundle is damaged.
    """
    bundle_folder = folder / "current" if (folder / "current").is_symlink() else folder
    manifest, _ = read_manifest(bundle_folder.resolve())
    dataset = Dataset.open(data)
    facts = read_run(run)
    _check_belongs_together(manifest, dataset, run, facts, bundle_folder)
    recipe = Recipe.parse(facts["recipe"], str(run / "recipe.toml"))
    curve = _curve(run)
    chosen = _chosen_epoch(run, recipe, curve, facts["epochs"])
    metrics = evaluate_bundle(folder, data, "test")
    record = RunRecord(
        **_common(dataset),
        commit=facts["commit"],
        recipe=facts["recipe_name"],
        recipe_text=recipe.text,
        model=recipe.model,
        seed=facts["seed"],
        bundle=metrics["bundle"],
        interests=manifest.interests,
        dimension=manifest.dimension,
        index=manifest.index,
        served=_figures(metrics, metrics["exact"]),
        exact=_figures(metrics["exact"], metrics["exact"]),
        validation=best_validation(run),
        epochs_chosen=chosen,
        epochs_run=_length(curve, SELECTION),
        epochs_at_most=facts["epochs"],
        curve=curve,
        encode_p50_ms=encode_p50_ms(Bundle.load(bundle_folder, verify=False)),
        trained_on=TrainedOn(device=facts["device"], threads=facts["threads"], torch=facts["torch"]),
    )
    record.write(records)
    return metrics


def evaluate_and_record_baselines(data: Path, records: Path, *, hide_seen: bool) -> dict[str, Any]:
    """Evaluate the baselines on the test part, as `evaluate_baselines` does, and record it."""
    metrics = evaluate_baselines(data, "test", hide_seen=hide_seen)
    figures = {name: _figures(of_baseline, of_baseline) for name, of_baseline in metrics.items()}
    common = _common(Dataset.open(data))
    BaselinesRecord(**common, commit=commit(), hide_seen=hide_seen, metrics=figures).write(records)
    return metrics


def encode_p50_ms(bundle: Bundle) -> float:
    """Median time of `bundle.encoder`, in milliseconds, for a session of 20 random items; it keeps to one thread."""
    rows_CL = np.random.default_rng(0).integers(1, bundle.manifest.items + 1, size=(TIMED_CALLS, TIMED_LENGTH))
    durations_s = []
    for rows in rows_CL.tolist():
        started = time.perf_counter()
        bundle.encoder.encode(rows)
        durations_s.append(time.perf_counter() - started)
    return 1_000 * median(durations_s)


def _check_belongs_together(
    manifest: Manifest, dataset: Dataset, run: Path, facts: dict[str, Any], bundle: Path
) -> None:
    if dataset.info.fingerprint != facts["data_fingerprint"]:
        raise InputError(f"{dataset.folder}: is not the data set that {run} was trained on; name that with --data")
    made_of = (facts["recipe"], facts["data_fingerprint"], best_validation(run))
    if (manifest.recipe, manifest.data_fingerprint, manifest.metrics) != made_of:
        raise InputError(f"{bundle}: was not exported from {run}; name its run with --run, or export this one again")


def _curve(run: Path) -> tuple[Epoch, ...]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Epoch.model_validate(json.loads(line)) for line in lines)


def _chosen_epoch(run: Path, recipe: Recipe, curve: tuple[Epoch, ...], epochs: int) -> int:
    """The epoch whose weights are exported. Raises InputError for a run that is not at its end."""
    metric, options = recipe.training.validation_metric, recipe.training
    length = _length(curve, SELECTION)
    validated = [epoch for epoch in curve if epoch.validation]
    chosen = max(validated, key=lambda epoch: epoch.validation[metric]).epoch if validated else length
    selected = length == epochs or length - chosen >= options.patience
    if not selected or (options.refit and validated and _length(curve, REFIT) < chosen):
        raise InputError(f"{run}: is not at its end; go on with `onward-training train ... --resume`, then export")
    return chosen


def _length(curve: tuple[Epoch, ...], fit: str) -> int:
    return sum(epoch.fit == fit for epoch in curve)


def _common(dataset: Dataset) -> dict[str, Any]:
    return {
        "data": dataset.folder.resolve().name,
        "data_fingerprint": dataset.info.fingerprint,
        "items": dataset.info.items,
        "examples": dataset.info.parts["test"].examples,
        "machine": machine("torch", "onnxruntime", "faiss-cpu"),
        "recorded": datetime.now(UTC).replace(microsecond=0),
    }


def _figures(metrics: dict[str, Any], like: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in like if name != "examples"}
