"""Begin a fit with the weights of another run; rows of items and users are matched by id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from onward.bundle.storage import place_of
from onward.training.data.dataset import Dataset
from onward.training.data.remote_dataset import local_dataset
from onward.training.errors import InputError
from onward.training.models.encoder import SessionEncoder
from onward.training.recipe import Recipe
from onward.training.run_folder import WEIGHTS, read_run, read_tensors, write_tensors

START = "start.pt"
"""The file of a run folder that holds the weights its fits begin with."""


class MatchedRows(NamedTuple):
    """Where the rows 0..N of a new table are found in another one; row 0 is padding in both."""

    rows_N1: Tensor
    """The row in the other table, 0 where it has none."""
    known_N1: Tensor
    """Whether the other table has the row."""

    @classmethod
    def of(cls, ids: Sequence[str], other_ids: Sequence[str]) -> Self:
        """Match rows 1, 2, ... by their ids."""
        other_rows = {other: row for row, other in enumerate(other_ids, start=1)}
        rows_N1 = torch.tensor([0, *(other_rows.get(one, 0) for one in ids)])
        known_N1 = rows_N1 > 0
        known_N1[0] = True
        return cls(rows_N1, known_N1)


def save_start(run: Path, recipe: Recipe, dataset: Dataset, out: Path) -> str:
    """Write the weights of another run into a run folder, matched to a dataset; return what was matched, in a line.

    Raises InputError if the run has no weights, another encoder than `recipe`, or a dataset that is no longer there.
    """
    if not recipe.has_steps:
        raise InputError(f"--from {run}: a {recipe.model} learns nothing by steps, so there is nothing to begin with")
    record = read_run(run)
    other_recipe = Recipe.parse(record["recipe"], str(run / "recipe.toml"))
    if (other_recipe.model, other_recipe.encoder) != (recipe.model, recipe.encoder):
        raise InputError(f"--from {run}: has another model or [encoder] than the recipe; only equal ones share weights")
    if not (run / WEIGHTS).exists():
        raise InputError(f"--from {run}: no epoch is complete yet; it has no weights")
    other = dataset if record["data_fingerprint"] == dataset.info.fingerprint else _dataset_of(run, record)
    items = MatchedRows.of(dataset.item_ids(), other.item_ids())
    users = MatchedRows.of(dataset.users(), other.users())
    weights = read_tensors(run / WEIGHTS, torch.device("cpu"))["encoder"]
    write_tensors(out / START, {"encoder": weights, "items": items._asdict(), "users": users._asdict()})
    known = int(items.known_N1.sum()) - 1
    return f"begins with the weights of {run}, which knows {known:,} of {len(items.known_N1) - 1:,} items"


def begin_with(encoder: SessionEncoder, file: Path) -> None:
    """Give an encoder the weights that `save_start` wrote; rows without a match stay as initialised.

    Raises InputError if a weight has another shape, as that of a model which reads users where there are none.
    """
    start = read_tensors(file, torch.device("cpu"))
    tables = {
        **dict.fromkeys(encoder.item_tables, MatchedRows(**start["items"])),
        **dict.fromkeys(encoder.user_tables, MatchedRows(**start["users"])),
    }
    for name, weight in encoder.state_dict().items():
        if name in encoder.session_tables:
            continue
        other, matched = start["encoder"][name], tables.get(name)
        if (other.shape[1:] if matched else other.shape) != (weight.shape[1:] if matched else weight.shape):
            raise InputError(f"{file}: {name} is {tuple(other.shape)}, where this data set needs {tuple(weight.shape)}")
        if matched:
            weight[matched.known_N1.to(weight.device)] = other[matched.rows_N1[matched.known_N1]].to(weight.device)
        else:
            weight.copy_(other)


def _dataset_of(run: Path, record: dict[str, Any]) -> Dataset:
    dataset = Dataset.open(local_dataset(place_of(record["data"])))
    if dataset.info.fingerprint != record["data_fingerprint"]:
        raise InputError(f"--from {run}: {record['data']} is no longer the data set that it was trained on")
    return dataset
