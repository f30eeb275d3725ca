"""The state of an encoder with sharded tables as one process has it, for checkpoints that any number of ranks reads.

Whole tables exist in files alone: rank 0 writes their rows into memory-mapped temporary files, piece by piece, and
reads a checkpoint in the same way.
Dimension key: N rows of a whole table, M own rows, D embedding.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onward.training.ranks.ranks import Ranks
from onward.training.ranks.sharded_table import ShardedEmbedding, sharded_tables

PIECE = 65_536
"""Own rows that a rank sends at once."""
State = dict[str, Any]
"""`encoder`, a state_dict, `optimizers`, a list of them, and whatever else."""
Optimizers = Sequence[torch.optim.Optimizer]


class _Place(NamedTuple):
    """Where a state holds a number for each number of a table."""

    holder: dict[Any, Any]
    key: Any
    table: ShardedEmbedding


@contextmanager
def whole_state(encoder: nn.Module, optimizers: Optimizers, ranks: Ranks, folder: Path) -> Iterator[State]:
    """Yield the state with whole tables on rank 0, in files below `folder` inside the block; on others without."""
    state: State = {"encoder": encoder.state_dict(), "optimizers": list(map(_state_of, optimizers))}
    tables = sharded_tables(encoder)
    with ExitStack() as files:
        if tables and ranks.is_leader:
            temporary = Path(files.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".tables-")))
        for number, (holder, key, table) in enumerate(_places(state, tables, optimizers)):
            own_MD = holder[key]
            whole_ND = None
            if ranks.is_leader:
                size = table.rows * own_MD.shape[1]
                mapped = torch.from_file(str(temporary / str(number)), shared=True, size=size, dtype=own_MD.dtype)
                whole_ND = mapped.view(table.rows, -1)
            for rows, pieces in _pieces(own_MD, table, ranks):
                if whole_ND is not None:
                    for rank, piece in enumerate(pieces):
                        of_rank_MD = whole_ND[rank :: ranks.size][rows]
                        of_rank_MD.copy_(piece[: len(of_rank_MD)])
            holder[key] = whole_ND
        yield state


def _state_of(optimizer: torch.optim.Optimizer) -> State:
    """Return the state_dict of an optimizer, whose dictionaries may be changed."""
    state = optimizer.state_dict()
    return {**state, "state": {number: dict(of_weight) for number, of_weight in state["state"].items()}}


def _pieces(own_MD: Tensor, table: ShardedEmbedding, ranks: Ranks) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield ranges of own rows, and on rank 0 the rows of all ranks in each, padded to equal numbers."""
    most = -(-table.rows // ranks.size)
    for first in range(0, most, PIECE):
        rows = slice(first, min(first + PIECE, most))
        piece = own_MD.new_zeros(rows.stop - first, own_MD.shape[1])
        own = own_MD.detach()[rows]
        piece[: len(own)] = own
        yield rows, ranks.gather_tensors(piece)


def own_state(state: State | None, encoder: nn.Module, optimizers: Optimizers, ranks: Ranks) -> State:
    """Return a state that rank 0 has read, on each rank with its own rows of whole tables alone.

    Args:
        state: the state with whole tables, which may be memory-mapped; None on other ranks.
        encoder: an encoder with sharded tables.
        optimizers: its optimizers.
        ranks: the ranks.
    """
    tables = sharded_tables(encoder)
    wholes: list[Tensor] = []
    names: list[str] = []
    by_weight = {id(table.weight): name for name, table in tables.items()}
    for holder, key, table in _places(state, tables, optimizers) if state is not None else ():
        wholes.append(holder[key])
        names.append(by_weight[id(table.weight)])
        holder[key] = _MARK + str(len(wholes) - 1)
    told = ranks.from_leader(lambda: (state, names))
    own = [_scattered(wholes[number] if wholes else None, tables[name], ranks) for number, name in enumerate(told[1])]
    replaced: State = _with_tables(told[0], own)
    return replaced


def _scattered(whole_ND: Tensor | None, table: ShardedEmbedding, ranks: Ranks) -> Tensor:
    """Return the own rows of a whole table of rank 0, which sends it to all piece by piece."""
    own_MD = torch.empty_like(table.weight, requires_grad=False)
    step = PIECE * ranks.size
    for first in range(0, table.rows, step):
        rows = min(step, table.rows - first)
        piece = own_MD.new_empty(rows, own_MD.shape[1]) if whole_ND is None else whole_ND[first : first + rows].clone()
        own = ranks.broadcast(piece.to(own_MD.device))[ranks.rank :: ranks.size]
        own_MD[first // ranks.size : first // ranks.size + len(own)] = own
    return own_MD


_MARK = "\0table "
"""Stands in a state for a table that follows, with its number."""


def _with_tables(value: Any, own: Sequence[Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_MARK):
        return own[int(value.removeprefix(_MARK))]
    if isinstance(value, dict):
        return {key: _with_tables(part, own) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_tables(part, own) for part in value]
    return value


def _places(state: State, tables: Mapping[str, ShardedEmbedding], optimizers: Optimizers) -> Iterator[_Place]:
    """Yield where a state holds tables, and the optimizers' numbers for them, whole or of own rows, in one order."""
    for name, table in tables.items():
        yield _Place(state["encoder"], name, table)
    by_weight = {id(table.weight): table for table in tables.values()}
    for optimizer, of_optimizer in zip(optimizers, state["optimizers"], strict=True):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for number, weight in enumerate(weights):
            of_table, of_weight = by_weight.get(id(weight)), of_optimizer["state"].get(number, {})
            if of_table is not None:
                yield from (
                    _Place(of_weight, key, of_table)
                    for key, value in list(of_weight.items())
                    if isinstance(value, Tensor) and value.dim() == of_table.weight.dim()
                )
