"""The soft targets of a fit on disk: made batch by batch, and taken up again where an interruption left them.

Dimension key: E examples, B examples of a batch, N rows (row 0 pads), S items kept of each example.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from onward.training.atomic_file import write_text
from onward.training.data.dataset import Dataset, Sessions
from onward.training.data.examples import Examples
from onward.training.data.soft_targets import SoftTargetTable
from onward.training.distillation.teachers import FOLDS, Teacher, open_teachers
from onward.training.interruption import Interruption
from onward.training.progress import counting
from onward.training.recipe import Distillation
from onward.training.run_folder import sessions_of_fit

KEPT = 40
"""S: the best items that are kept of each example."""
BATCH, SCORES_AT_ONCE = 512, 2**25
BATCHES_BETWEEN_SAVES = 50
ROWS, SHARES, PROGRESS = "teacher_rows.npy", "teacher_shares.npy", "teachers.json"


def stored_soft_targets(
    folder: Path,
    teachers: Mapping[str, str],
    dataset: Dataset,
    fit: str,
    options: Distillation,
    interrupted: Interruption,
) -> SoftTargetTable | None:
    """Return what teachers think of all examples of a fit, from the files in `folder`, which are made if need be.

    A row of 40 items takes 160 bytes if there are fewer than 65,536 items, else 240. Returns None if interrupted.

    Args:
        folder: the folder of the fit.
        teachers: the digest of each teacher by its path; see `teacher_digests`.
        dataset: the dataset of the fit.
        fit: its name.
        options: weight and temperature.
        interrupted: ends the work after the current batch.

    Raises:
        InputError: a teacher has learnt from the validation part that is to judge the fit.
    """
    sessions = sessions_of_fit(dataset, fit)
    examples = Examples.of(sessions, 1, torch.device("cpu"))
    items = len(dataset.item_ids())
    shape = len(examples), min(KEPT, items)
    facts = {
        "data": dataset.info.fingerprint,
        "fit": fit,
        "teachers": sorted(teachers.values()),
        "temperature": options.temperature,
        "shape": shape,
    }
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    files = _Files(folder, shape, np.uint16 if items < 2**16 else np.int32, fingerprint)
    if not files.complete:
        asked = [
            (teacher, Examples.of(sessions, teacher.max_length, torch.device("cpu")))
            for teacher in open_teachers([Path(path) for path in teachers], dataset, fit)
        ]
        longest = max((of_teacher for _, of_teacher in asked), key=_longest_input)
        batches = list(_batches(sessions, longest, max(1, min(BATCH, SCORES_AT_ONCE // (items + 1)))))
        if not _teach(files, asked, batches, options.temperature, interrupted):
            return None
    return SoftTargetTable(
        files.rows_ES, files.shares_ES, examples.targets_E.numpy(), len(examples.rows), options.weight
    )


class _Files:
    """The arrays of a fit's soft targets, and how many batches of examples they hold."""

    def __init__(self, folder: Path, shape: tuple[int, int], row_type: type[np.integer], fingerprint: str) -> None:
        """Open the files if they have this fingerprint, else begin them anew."""
        self._progress, self._fingerprint = folder / PROGRESS, fingerprint
        progress = self._read_progress()
        is_begun = progress.get("fingerprint") == fingerprint
        mode = "r+" if is_begun else "w+"
        self.batches: int = progress["batches"] if is_begun else 0
        self.complete: bool = is_begun and progress["complete"]
        self.rows_ES: np.memmap[Any, np.dtype[np.integer]] = open_memmap(folder / ROWS, mode, row_type, shape)
        self.shares_ES: np.memmap[Any, np.dtype[np.float16]] = open_memmap(folder / SHARES, mode, np.float16, shape)

    def save(self, batches: int, *, complete: bool) -> None:
        """Note how many batches are done, after the arrays are on disk."""
        self.rows_ES.flush()
        self.shares_ES.flush()
        self.batches, self.complete = batches, complete
        progress = {"fingerprint": self._fingerprint, "batches": batches, "complete": complete}
        write_text(self._progress, json.dumps(progress) + "\n")

    def _read_progress(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._progress.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return {}


def _teach(
    files: _Files,
    asked: Sequence[tuple[Teacher, Examples]],
    batches: Sequence[tuple[int, Tensor]],
    temperature: float,
    interrupted: Interruption,
) -> bool:
    """Write the soft targets of all batches that have none yet; return False if interrupted."""
    with counting("batches taught", len(batches)) as advance:
        for number, (fold, examples_B) in enumerate(batches):
            if number >= files.batches:
                rows_BS, shares_BS = _best(asked, examples_B, fold, temperature, files.rows_ES.shape[1])
                files.rows_ES[examples_B.numpy()] = rows_BS.numpy()
                files.shares_ES[examples_B.numpy()] = shares_BS.numpy()
                if interrupted or number % BATCHES_BETWEEN_SAVES == BATCHES_BETWEEN_SAVES - 1:
                    files.save(number + 1, complete=False)
                if interrupted:
                    return False
            advance()
    files.save(len(batches), complete=True)
    return True


def _longest_input(examples: Examples) -> int:
    return int((examples.ends_E - examples.starts_E).max())


def _batches(sessions: Sequence[Sessions], examples: Examples, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield batches of examples of similar length, fold by fold, each with its fold."""
    shifts = np.cumsum([0, *(len(part.rows) for part in sessions)])
    starts = np.concatenate([part.offsets[:-1] + shift for part, shift in zip(sessions, shifts, strict=False)])
    session_E = np.searchsorted(starts, examples.begins_E.numpy(), side="right") - 1
    for fold in range(FOLDS):
        of_fold = torch.from_numpy(np.flatnonzero(session_E % FOLDS == fold))
        for chosen in examples.subset(of_fold).sorted_batches(size):
            yield fold, of_fold[chosen]


@torch.inference_mode()
def _best(
    asked: Sequence[tuple[Teacher, Examples]], examples_B: Tensor, fold: int, temperature: float, kept: int
) -> tuple[Tensor, Tensor]:
    """Return the best rows_BS of the mean of the teachers' probabilities, and their shares_BS."""
    summed_BN = torch.zeros(())
    for teacher, examples in asked:
        summed_BN = summed_BN + (teacher.scores(examples.gather(examples_B), fold) / temperature).softmax(dim=1)
    shares_BS, rows_BS = summed_BN.topk(kept, dim=1)
    return rows_BS, shares_BS / shares_BS.sum(dim=1, keepdim=True)
