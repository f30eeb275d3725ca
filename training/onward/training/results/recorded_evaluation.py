"""Evaluate a run's bundle, or the baselines, and write the metrics to a record."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from onward.bundle import Bundle, Manifest, read_manifest
from onward.training.chosen_epoch import chosen_epoch
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.evaluation.evaluation import evaluate_baselines, evaluate_bundle
from onward.training.export.export import exported_recipe
from onward.training.hardware import commit, machine
from onward.training.recipe import Recipe
from onward.training.results.record import BaselinesRecord, Epoch, RunRecord, TrainedOn
from onward.training.run_folder import SELECTION, best_validation, read_history, read_run

TIMED_CALLS, TIMED_LENGTH = 300, 20
NOT_FIGURES = ("examples", "examples_of_part", "sample", "slices", "standard_error")


def evaluate_and_record(
    folder: Path,
    data: Path,
    runs: Sequence[Path],
    records: Path,
    *,
    sampled_negatives: int = 0,
    seed: int = 0,
    sample: int | None = None,
    on_warning: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Evaluate a bundle on the test part, as `evaluate_bundle` does, and record it with its runs.

    Args:
        folder: a bundle, or a folder of bundles, meaning its current one.
        data: a dataset.
        runs: the folders of the runs that it was exported from, in that order.
        records: the folder of records, with a subfolder for each data set.
        sampled_negatives: also rank each target among this many sampled items; 0 for none.
        seed: seed of the sampled items.
        sample: as of `evaluate_bundle`.
        on_warning: as of `evaluate_bundle`.

    Raises:
        InputError: the bundle was not exported from these runs, or a run is of another data set or not finished.
        BundleError: the bundle is damaged.
    """
    bundle_folder = folder / "current" if (folder / "current").is_symlink() else folder
    manifest, _ = read_manifest(bundle_folder.resolve())
    dataset = Dataset.open(data)
    _check_same_origin(manifest, dataset, runs, bundle_folder)
    members = [_RecordedRun.of(run) for run in runs]
    first = members[0]
    metrics = evaluate_bundle(
        folder, data, "test", sampled_negatives=sampled_negatives, seed=seed, sample=sample, on_warning=on_warning
    )
    record = RunRecord(
        **_common(dataset),
        commit=first.facts["commit"],
        recipe=_joined_name([member.recipe.name for member in members]),
        recipe_text=manifest.recipe,
        model=manifest.model,
        seed=first.facts["seed"],
        bundle=metrics["bundle"],
        interests=manifest.interests,
        dimension=manifest.dimension,
        index=manifest.index,
        served=_figures(metrics, metrics["exact"]),
        exact=_figures(metrics["exact"], metrics["exact"]),
        sampled=metrics.get("sampled", {}),
        sampled_examples=metrics["examples"] if "sample" in metrics else 0,
        standard_error=metrics.get("standard_error", {}),
        validation=manifest.metrics,
        epochs_chosen=first.epochs_chosen,
        epochs_run=_length(first.curve, SELECTION),
        epochs_at_most=first.facts["epochs"],
        curve=first.curve if len(members) == 1 else tuple(_unvalidated(members)),
        encode_p50_ms=encode_p50_ms(Bundle.load(bundle_folder, verify=False)),
        trained_on=TrainedOn(**{name: first.facts[name] for name in TrainedOn.model_fields}),
    )
    record.write(records)
    return metrics


def evaluate_and_record_baselines(
    data: Path,
    records: Path,
    *,
    hide_seen: bool,
    sample: int | None = None,
    on_warning: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Evaluate the baselines on the test part, as `evaluate_baselines` does, and record it."""
    metrics = evaluate_baselines(data, "test", hide_seen=hide_seen, sample=sample, on_warning=on_warning)
    figures = {name: _figures(of_baseline, of_baseline) for name, of_baseline in metrics.items()}
    common = _common(Dataset.open(data))
    BaselinesRecord(
        **common,
        commit=commit(),
        hide_seen=hide_seen,
        metrics=figures,
        sampled_examples=max(of["examples"] if "sample" in of else 0 for of in metrics.values()),
        standard_error={name: of["standard_error"] for name, of in metrics.items() if "standard_error" in of},
    ).write(records)
    return metrics


def encode_p50_ms(bundle: Bundle) -> float:
    """Measure the median time of `bundle.encoder` for a session of 20 random items on one thread, in milliseconds."""
    rows_CL = np.random.default_rng(0).integers(1, bundle.encoder.items + 1, size=(TIMED_CALLS, TIMED_LENGTH))
    durations_s = []
    for rows in rows_CL.tolist():
        started = time.perf_counter()
        bundle.encoder.encode(rows)
        durations_s.append(time.perf_counter() - started)
    return 1_000 * median(durations_s)


class _RecordedRun(NamedTuple):
    """A finished run that a bundle was exported from."""

    facts: dict[str, Any]
    recipe: Recipe
    curve: tuple[Epoch, ...]
    epochs_chosen: int

    @classmethod
    def of(cls, run: Path) -> "_RecordedRun":
        """Read the folder of a run. Raises InputError if the run is not finished."""
        facts = read_run(run)
        recipe = Recipe.parse(facts["recipe"], f"{facts['recipe_name']}.toml")
        curve = tuple(map(Epoch.model_validate, read_history(run)))
        chosen = chosen_epoch(run)
        if chosen is None:
            raise InputError(
                f"{run}: is not finished; resume it with `onward-training train ... --resume`, then export"
            )
        return cls(facts, recipe, curve, chosen)


def _check_same_origin(manifest: Manifest, dataset: Dataset, runs: Sequence[Path], bundle: Path) -> None:
    records = [read_run(run) for run in runs]
    for run, facts in zip(runs, records, strict=True):
        if dataset.info.fingerprint != facts["data_fingerprint"]:
            raise InputError(f"{dataset.folder}: is not the data set that {run} was trained on; name that with --data")
    recipe_text = exported_recipe([facts["recipe"] for facts in records])
    validation = best_validation(runs[0]) if len(runs) == 1 else {}
    if (manifest.recipe, manifest.data_fingerprint, manifest.metrics) != (
        recipe_text,
        dataset.info.fingerprint,
        validation,
    ):
        named = " ".join(map(str, runs))
        raise InputError(f"{bundle}: was not exported from {named}; name its runs with --run, or export it again")


def _joined_name(recipes: Sequence[str]) -> str:
    """Join the names of recipes with their counts, as `a`, `a-x2` or `a-x2+b`."""
    counts = Counter(recipes)
    return "+".join(name if count == 1 else f"{name}-x{count}" for name, count in counts.items())


def _unvalidated(members: Sequence[_RecordedRun]) -> Iterator[Epoch]:
    """Yield the epochs of several runs without validation metrics, which do not apply to their ensemble."""
    return (epoch.model_copy(update={"validation": {}}) for member in members for epoch in member.curve)


def _length(curve: tuple[Epoch, ...], fit: str) -> int:
    return sum(epoch.fit == fit for epoch in curve)


def _common(dataset: Dataset) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "data_fingerprint": dataset.info.fingerprint,
        "items": dataset.info.items,
        "examples": dataset.info.parts["test"].examples,
        "machine": machine("torch", "onnxruntime", "faiss-cpu"),
        "recorded": datetime.now(UTC).replace(microsecond=0),
    }


def _figures(metrics: dict[str, Any], like: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in like if name not in NOT_FIGURES}
