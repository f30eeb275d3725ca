"""Teachers: the encoders of runs, and bundles, whose probabilities of the next item are averaged.

Dimension key: B examples, N rows (row 0 pads), D embedding.

No teacher may know what the student is asked. For the fit that validation judges, a run is taken as fitted to the
training part alone, and a bundle only if it was. Nearest sessions would find the example's own session and answer with
its very target, so each of `FOLDS` parts of the sessions is taught by the sessions of the other parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onward.bundle import ENCODER, VECTORS, BundleError, Encoder, Manifest, read_manifest
from onward.bundle.published import CURRENT
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset, Sessions, digest
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.errors import InputError
from onward.training.evaluation.validation import best_interest_scores, exact_scores
from onward.training.models.encoder import SessionEncoder
from onward.training.models.nearest_sessions import NearestSessionsEncoder
from onward.training.recipe import Recipe
from onward.training.run_folder import REFIT, RUN_FILE, SELECTION, WEIGHTS, read_run, sessions_of_fit
from onward.training.trained_run import fitted_last, fitted_to_training

FOLDS = 5


class Teacher(Protocol):
    """Scores all items as the logarithms of their probabilities, up to a constant."""

    max_length: int

    def scores(self, batch: Batch, fold: int) -> Tensor:
        """Return the scores_BN of examples of one fold, -inf for the padding."""
        ...


def teacher_digests(teachers: Sequence[Path], dataset: Dataset) -> dict[str, str]:
    """Return a digest of the content of each teacher, by its path.

    Raises InputError if one is neither a run with weights nor a bundle, or of another dataset.
    """
    return {str(path.resolve()): _digest_of(path, dataset) for path in teachers}


def open_teachers(teachers: Sequence[Path], dataset: Dataset, fit: str) -> list[Teacher]:
    """Load teachers for a fit. Raises InputError if one has learnt from the validation part that is to judge it."""
    return [_open_teacher(path, dataset, fit) for path in teachers]


def _digest_of(path: Path, dataset: Dataset) -> str:
    if (path / RUN_FILE).exists():
        _check_data(path, read_run(path)["data_fingerprint"], dataset)
        if not (path / WEIGHTS).exists():
            raise InputError(f"--teacher {path}: no epoch is complete yet; it has no weights")
        return digest(path / WEIGHTS)
    _, manifest, name = _bundle(path)
    _check_data(path, manifest.data_fingerprint, dataset)
    return name


def _check_data(path: Path, fingerprint: str, dataset: Dataset) -> None:
    if fingerprint != dataset.info.fingerprint:
        raise InputError(f"--teacher {path}: was made from another dataset than {dataset.folder}")


def _open_teacher(path: Path, dataset: Dataset, fit: str) -> Teacher:
    if not (path / RUN_FILE).exists():
        return _open_bundle(path, dataset, fit)
    fitted = fitted_last(path, dataset) if fit == REFIT else fitted_to_training(path, dataset)
    if fitted is None:
        raise _knows_validation(path)
    if isinstance(fitted.encoder, NearestSessionsEncoder):
        return _NearestSessionsTeacher(fitted.recipe, dataset, fit)
    return _EncoderTeacher(fitted.encoder)


def _knows_validation(path: Path) -> InputError:
    return InputError(
        f"--teacher {path}: has learnt from the validation part, or may have, so that validation would judge too well; "
        "name runs with a fit to the training part, or skip validation by --refit-epochs"
    )


class _EncoderTeacher:
    """The encoder of a run."""

    def __init__(self, encoder: SessionEncoder) -> None:
        self.max_length = encoder.max_length
        self._encoder = encoder
        self._vectors_DN = encoder.item_vectors().T.contiguous()

    def scores(self, batch: Batch, fold: int) -> Tensor:
        return exact_scores(self._encoder, batch, self._vectors_DN)


class _NearestSessionsTeacher:
    """Nearest sessions, those of the other folds for the examples of a fold."""

    def __init__(self, recipe: Recipe, dataset: Dataset, fit: str) -> None:
        self.max_length = recipe.encoder.max_length
        self._recipe, self._dataset, self._parts = recipe, dataset, sessions_of_fit(dataset, fit)
        self._of_fold = lru_cache(maxsize=1)(self._fit)

    def scores(self, batch: Batch, fold: int) -> Tensor:
        return self._of_fold(fold).scores(batch, fold)

    def _fit(self, fold: int) -> _EncoderTeacher:
        others, first = [], 0
        for part in self._parts:
            others.append(_only(part, np.arange(first, first + len(part)) % FOLDS != fold))
            first += len(part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold)
            return _EncoderTeacher(self._recipe.build(Corpus.of(self._dataset, others)).eval())


def _only(part: Sessions, chosen: NDArray[np.bool_]) -> Sessions:
    """Return the chosen sessions of a part."""
    lengths = np.diff(part.offsets)
    of_chosen = np.repeat(chosen, lengths)
    return replace(
        part,
        rows=part.rows[of_chosen],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[chosen])]),
        is_target=part.is_target[of_chosen],
        users=part.users[chosen],
    )


@dataclass
class _BundleTeacher:
    """The program and the vectors of a bundle."""

    encoder: Encoder
    vectors_DN: Tensor
    max_length: int

    def scores(self, batch: Batch, fold: int) -> Tensor:
        sessions = [[row for row in items_L if row != PADDING] for items_L in batch.items_BL.tolist()]
        interests_BKD = torch.from_numpy(self.encoder.encode_all(sessions, batch.users_B.tolist()))
        return best_interest_scores(interests_BKD, self.vectors_DN)


def _open_bundle(path: Path, dataset: Dataset, fit: str) -> _BundleTeacher:
    folder, manifest, _ = _bundle(path)
    if manifest.nearest_sessions is not None:
        raise InputError(
            f"--teacher {path}: holds nearest sessions, which would find those to be taught; name its runs"
        )
    if fit == SELECTION and "validation" in dataset.info.parts and not _leaves_out_validation(manifest):
        raise _knows_validation(path)
    items = manifest.encodable_items
    encoder = Encoder.load(
        folder / ENCODER,
        items=items,
        dimension=manifest.dimension,
        interests=manifest.interests,
        max_length=manifest.max_length,
        users=manifest.users,
    )
    vectors_ND = torch.from_numpy(np.load(folder / VECTORS)[: items + 1])
    return _BundleTeacher(encoder, vectors_ND.T.contiguous(), manifest.max_length)


def _leaves_out_validation(manifest: Manifest) -> bool:
    """Return whether a bundle is of one run that was validated and not fitted again."""
    return bool(manifest.metrics) and not Recipe.parse(manifest.recipe, "recipe").training.refit


def _bundle(path: Path) -> tuple[Path, Manifest, str]:
    """Return the folder, the manifest and the digest of a bundle, the current one of a folder of bundles."""
    folder = path / CURRENT if (path / CURRENT).is_symlink() else path
    try:
        return folder, *read_manifest(folder)
    except BundleError as error:
        raise InputError(f"--teacher {path}: is neither a run nor a bundle: {error}") from error
