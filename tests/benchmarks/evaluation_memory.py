"""Time and memory of validation, exact search and the item-to-item baseline.

`python -m tests.benchmarks.evaluation_memory`. Each part runs in a process of its own; its largest resident memory
less `before_mib`, that of libraries and data, is what the part takes. With PYTHONPATH set to the folders of another
revision, `--part` measures that one.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from onward.bundle.catalog.eligible import Eligible
from onward.training.hardware import machine

if TYPE_CHECKING:
    from onward.bundle import ItemIndex


class Part(StrEnum):
    """What is measured."""

    VALIDATION = "validation"
    ALONE = "questions alone"
    TOGETHER = "questions together"
    ITEM_TO_ITEM = "item-to-item"


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _measured(action: Callable[[], object]) -> dict[str, float]:
    before, began = _peak_mib(), time.perf_counter()
    action()
    seconds = round(time.perf_counter() - began, 2)
    return {"before_mib": before, "peak_mib": _peak_mib(), "seconds": seconds}


def _validation(items: int, size: int, dimension: int) -> dict[str, float]:
    """Rank the targets of `size` examples by an encoder that looks up the last item."""
    import torch

    from onward.training.data.examples import Batch, Examples
    from onward.training.data.small_corpus import sessions
    from onward.training.evaluation.validation import exact_ranks
    from onward.training.models.encoder import SessionEncoder
    from onward.training.trainer import keep_freed_memory

    class LastItem(SessionEncoder):
        max_length = 10

        def __init__(self) -> None:
            super().__init__()
            self.vectors_ND = torch.randn(items + 1, dimension)

        def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
            return self.vectors_ND[items_BL[:, -1:]]

        def item_vectors(self) -> torch.Tensor:
            return self.vectors_ND

        def loss(self, batch: Batch) -> torch.Tensor:
            raise TypeError("is not trained")

    keep_freed_memory()
    encoder, rows = LastItem(), np.random.default_rng(1).integers(1, items + 1, (size, 2))
    examples = Examples.of([sessions(*rows.tolist())], 10, torch.device("cpu"))
    return _measured(lambda: exact_ranks(encoder, examples, exclude_seen=False))


def _index(items: int, dimension: int) -> tuple["ItemIndex", NDArray[np.float32]]:
    """Return an index of random vectors, and the vectors."""
    import faiss

    from onward.bundle import FaissIndex, ItemIndex, SearchParameters

    vectors_N1D = np.random.default_rng(1).standard_normal((items + 1, dimension), dtype=np.float32)
    return ItemIndex(
        FaissIndex(faiss.IndexFlatIP(dimension)), vectors_N1D=vectors_N1D, parameters=SearchParameters()
    ), vectors_N1D


def _questions_alone(items: int, size: int, dimension: int) -> dict[str, float]:
    """Search exactly for the 51 best of each of `size` interests alone."""
    index, vectors_N1D = _index(items, dimension)
    return _measured(lambda: [index.search(vectors_N1D[row : row + 1], 51, exact=True) for row in range(1, size + 1)])


def _questions_together(items: int, size: int, dimension: int) -> dict[str, float]:
    """Search exactly for the 51 best of each of `size` interests, 64 interests at a time."""
    index, vectors_N1D = _index(items, dimension)
    eligible, hidden = Eligible(np.arange(items + 1) > 0, items=items), [frozenset[int]()] * 64

    def search() -> None:
        for first in range(1, size + 1, 64):
            index.scan_all(vectors_N1D[first : first + 64, np.newaxis], 51, eligible=eligible, hidden_rows=hidden)

    return _measured(search)


def _item_to_item(items: int, size: int, dimension: int) -> dict[str, float]:
    """Count the co-occurrences of `size` events, in sessions of 5, of items by Zipf's law."""
    from onward.training.baselines import item_to_item
    from onward.training.baselines.past_sessions import PastSessions

    rows = np.minimum(np.random.default_rng(1).zipf(1.2, size), items).astype(np.int64)
    past = PastSessions(rows, np.arange(0, size + 1, 5))
    return _measured(lambda: item_to_item._Neighbours.of(past, items + 1))


MEASURED = {
    Part.VALIDATION: _validation,
    Part.ALONE: _questions_alone,
    Part.TOGETHER: _questions_together,
    Part.ITEM_TO_ITEM: _item_to_item,
}
SIZES = {Part.VALIDATION: 1_024, Part.ALONE: 256, Part.TOGETHER: 256, Part.ITEM_TO_ITEM: 2_000_000}
"""Numbers of examples, of questions, and of events."""


def main(
    items: Annotated[int, typer.Option(min=1_000, help="Items of the catalog.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of a vector.")] = 64,
    part: Annotated[Part | None, typer.Option(help="Measure this part in this process.  [default: all]")] = None,
) -> None:
    """Print what each part takes, as a line of JSON."""
    if part is not None:
        typer.echo(json.dumps(MEASURED[part](items, SIZES[part], dimension)))
        return
    results: dict[str, Any] = {}
    for each in Part:
        options = ["--items", str(items), "--dimension", str(dimension), "--part", each.value]
        ended = subprocess.run(
            [sys.executable, "-m", __spec__.name, *options], capture_output=True, text=True, check=True
        )
        results[each.value] = {"size": SIZES[each], **json.loads(ended.stdout)}
    typer.echo(json.dumps({**machine("torch", "numpy"), "items": items, "dimension": dimension, **results}))


if __name__ == "__main__":
    typer.run(main)
