"""What a bundle's training run provides: weights for an eager encoder, and sessions of its test part."""

from itertools import pairwise
from pathlib import Path

import torch

from onward.service.bench.load_generator.workload import Sessions
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.export.export import load_trained
from onward.training.models.srgnn import SRGNN
from onward.training.run_folder import read_run
from tests.benchmarks.plain_srgnn import PlainSRGNN


def write_plain_weights(run: Path, file: Path) -> None:
    """Write a state dictionary for PlainSRGNN. Raises InputError if the run has not the paper's form."""
    encoder = load_trained(run, _dataset(run)).encoder
    if not isinstance(encoder, SRGNN):
        raise InputError(f"{run}: is not a run of srgnn, the only model of the plain peer")
    try:
        torch.save(PlainSRGNN.like(encoder).state_dict(), file)
    except RuntimeError as error:
        raise InputError(f"{run}: has not the paper's form, which the plain peer needs; train that recipe") from error


def real_sessions(run: Path) -> Sessions:
    """Return the test sessions that contain known items only. Raises InputError if there are none."""
    dataset = _dataset(run)
    part, known = dataset.sessions("test"), set(dataset.item_ids())
    ids = part.item_ids
    sessions = tuple(tuple(ids[start:end]) for start, end in pairwise(part.offsets.tolist()))
    if not (real := tuple(session for session in sessions if known.issuperset(session))):
        raise InputError(f"{dataset.folder}: its test part has no session of known items only")
    return real


def _dataset(run: Path) -> Dataset:
    return Dataset.open(Path(read_run(run)["data"]))
