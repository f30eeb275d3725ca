"""Items of held-out sessions that a bundle or the baselines do not know: as targets they are misses."""

from collections.abc import Callable, Sequence
from pathlib import Path

from onward.bundle import Bundle
from onward.training.data.dataset import Dataset
from onward.training.evaluation.cases import EvaluationCase

Knows = Callable[[str], bool]
"""Whether an item can be ranked."""


def count_unknown_targets(cases: Sequence[EvaluationCase], knows: Knows) -> int:
    """Return the number of targets that cannot be ranked."""
    return sum(not knows(target) for case in cases for target in case.targets)


def warn_of_unknown_items(
    cases: Sequence[EvaluationCase], knows: Knows, where: Path, on_warning: Callable[[str], object]
) -> None:
    """Call `on_warning` with a line if there are targets that cannot be ranked, or sessions without any known item."""
    unknown, targets = count_unknown_targets(cases, knows), sum(len(case.targets) for case in cases)
    if unknown:
        on_warning(
            f"{where}: {_share(unknown, targets)} targets are items that training never saw; each counts as a miss"
        )
    unread = sum(not any(map(knows, case.inputs)) for case in cases)
    if unread:
        on_warning(
            f"{where}: {_share(unread, len(cases))} examples have no item before the target that training saw; their "
            "session says nothing"
        )


def warn_of_another_dataset(bundle: Bundle, dataset: Dataset, on_warning: Callable[[str], object]) -> None:
    """Call `on_warning` with the share of known items if the bundle was trained on another dataset."""
    if dataset.info.fingerprint == bundle.manifest.data_fingerprint:
        return
    items = dataset.item_ids()
    known = sum(bundle.catalog.row(item) is not None for item in items)
    on_warning(
        f"{dataset.folder}: is not the data set that the bundle was trained on; the bundle knows "
        f"{_share(known, len(items))} items of its catalog"
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"
