"""Prepare the dataset of a fit from a log, with defaults that follow its size."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onward.training.data.dataset import INFO_FILE
from onward.training.data.preparation.prepare import DEFAULTS, prepare


def prepared_dataset(
    events: Sequence[str],
    items: str | None,
    out: Path,
    *,
    weights: Mapping[str, float] | None,
    resume: bool,
    on_step: Callable[[str], None],
) -> Path:
    """Write the dataset `out` from a log, unless `resume` finds it, and return its folder.

    `weights` are those of types of events; see `Preparation`.

    Raises InputError if the log is unusable, as `prepare` does.
    """
    if not (resume and (out / INFO_FILE).exists()):
        preparation = DEFAULTS.model_copy(update={"weights": weights and dict(weights)})
        prepare(events, out, preparation, items=items, progress=on_step)
    return out
