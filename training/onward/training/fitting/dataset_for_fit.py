"""Prepare the dataset of a fit from a log, with defaults that follow its size."""

from collections.abc import Callable, Sequence
from pathlib import Path

from onward.training.data.dataset import INFO_FILE
from onward.training.data.preparation.prepare import prepare


def prepared_dataset(
    events: Sequence[str],
    items: str | None,
    out: Path,
    *,
    resume: bool,
    on_step: Callable[[str], None],
) -> Path:
    """Write the dataset `out` from a log, unless `resume` finds it, and return its folder.

    Raises InputError if the log is unusable, as `prepare` does.
    """
    if not (resume and (out / INFO_FILE).exists()):
        prepare(events, out, items=items, progress=on_step)
    return out
