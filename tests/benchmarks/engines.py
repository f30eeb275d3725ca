"""One SR-GNN encoder on every engine that can run it, from eager torch to compiled machine code.

Dimension key: B sessions, L positions, D embedding.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from onward.bundle import Encoder
from onward.bundle.encoder.kernel import Kernel
from onward.training.export.onnx_program import write_form
from onward.training.models.folded_srgnn import FoldedSRGNN
from onward.training.models.srgnn import SRGNN
from onward.training.recipe import Recipe
from tests.benchmarks.plain_srgnn import PlainSRGNN, plain_batch
from tests.benchmarks.synthetic_corpus import sizes_of, synthetic_corpus

RECIPE = "srgnn-diginetica-paper"
LENGTHS = (5, 10, 20, 50)
SESSIONS_PER_ROUND = 50
REFERENCE = "torch, graph in Python"
"""The engine of most public code, to which the others are compared."""

PROFILED = 20
"""Items per session where the parts of the kernel are timed."""

T = TypeVar("T")
Rows = list[int]
Engine = Callable[[Rows], NDArray[np.float32]]


def compare(
    folder: Path, sessions_of: Callable[[random.Random, int, int], Rows], rounds: int
) -> dict[str, dict[str, Any]]:
    """Measure each engine at each session length; the engines take turns in every round.

    Returns, by length and engine: processor time per call in us, the speed-up over `REFERENCE` (median of the rounds'
    ratios), and the largest difference of the interests from those of torch.

    Args:
        folder: where programs are exported to.
        sessions_of: draws a session, given a random generator, the number of items and the length.
        rounds: measurements of each engine and length.
    """
    torch.set_num_threads(1)
    items = sizes_of(RECIPE).items
    engines = engines_of(untrained(), folder, items)
    generator = random.Random(1)
    sessions = {
        length: [sessions_of(generator, items, length) for _ in range(SESSIONS_PER_ROUND)] for length in LENGTHS
    }
    return {str(length): compare_at(engines, sessions[length], rounds) for length in LENGTHS}


def compare_at(engines: Mapping[str, Engine], sessions: list[Rows], rounds: int) -> dict[str, Any]:
    """Return the figures of `compare` for sessions of one length."""
    expected = [engines[REFERENCE](rows) for rows in sessions]
    differences = {
        name: max(
            float(np.abs(engine(rows) - reference).max()) for rows, reference in zip(sessions, expected, strict=True)
        )
        for name, engine in engines.items()
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name].append(cpu_us(engine, sessions))
    return {
        name: {
            "cpu_us": round(median(engine_us), 1),
            "times_as_fast": round(
                median(reference / own for reference, own in zip(times[REFERENCE], engine_us, strict=True)), 1
            ),
            "difference": float(f"{differences[name]:.1e}"),
        }
        for name, engine_us in times.items()
    }


def kernel_parts(folder: Path, sessions_of: Callable[[random.Random, int, int], Rows], rounds: int) -> dict[str, float]:
    """Return the processor time of the parts of a kernel call for `PROFILED` items, in us.

    The parts are differences between complete calls and calls without a part. As in `compare`, another engine runs
    before the complete calls, so that these start with cold caches.
    """
    torch.set_num_threads(1)
    items, encoder, generator = sizes_of(RECIPE).items, untrained(), random.Random(1)
    form = FoldedSRGNN([encoder.layers()])
    reference, complete = graph_in_python(encoder), kernel(form, folder / "parts", encoder, items)
    bare_kernel = Kernel.load(folder / "parts", form.kernel()[0], items=items, max_length=encoder.max_length)
    interests = np.empty((1, encoder.dimension), dtype=np.float32)
    sessions = [sessions_of(generator, items, PROFILED) for _ in range(SESSIONS_PER_ROUND)]
    arrays = [np.array(rows) for rows in sessions]

    def write(items_L: NDArray[np.int64]) -> None:
        bare_kernel.write(items_L, np.array([len(items_L)]), interests)

    times: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        cpu_us(reference, sessions)
        lists_us = cpu_us(complete.encode, sessions)
        cpu_us(reference, sessions)
        arrays_us = cpu_us(write, arrays)
        cached_us, one_item_us = (cpu_us(write, [same] * SESSIONS_PER_ROUND) for same in (arrays[0], arrays[0][:1]))
        times.append((lists_us, arrays_us, cached_us, one_item_us))
    lists_us, arrays_us, cached_us, one_item_us = (median(column) for column in zip(*times, strict=True))
    parts = {
        "lists made into arrays": lists_us - arrays_us,
        "what is not in the caches: rows of the table, code": arrays_us - cached_us,
        "the first item: the call, the products of its last state": one_item_us,
        "the other items: messages, gates, attention": cached_us - one_item_us,
    }
    return {name: round(part, 1) for name, part in parts.items()}


def cpu_us(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """Return the processor time of this thread per call, in us."""
    started = time.thread_time()
    for argument in arguments:
        call(argument)
    return 1e6 * (time.thread_time() - started) / len(arguments)


def untrained() -> SRGNN:
    """Build the recipe's encoder without training it."""
    torch.manual_seed(1)
    encoder = Recipe.load(Path(RECIPE)).build(synthetic_corpus(sizes_of(RECIPE), seed=1)).eval()
    assert isinstance(encoder, SRGNN)
    return encoder


def graph_in_python(encoder: SRGNN) -> Engine:
    """What public code does."""
    plain = PlainSRGNN.like(encoder).eval()

    @torch.inference_mode()
    def encode(rows: Rows) -> NDArray[np.float32]:
        interests_BD: NDArray[np.float32] = plain(plain_batch([rows], [1])).numpy()
        return interests_BD

    return encode


def engines_of(encoder: SRGNN, folder: Path, items: int) -> dict[str, Engine]:
    """Return every engine by name, the reference first."""

    @torch.inference_mode()
    def graph_in_tensors(rows: Rows) -> NDArray[np.float32]:
        interests_1D: NDArray[np.float32] = encoder(torch.tensor([rows]))[0].numpy()
        return interests_1D

    return {
        REFERENCE: graph_in_python(encoder),
        "torch, graph in tensors": graph_in_tensors,
        "onnx": program(encoder, folder / "plain", encoder, items).encode,
        "onnx, vectors folded": program(
            FoldedSRGNN([encoder.layers()], max_table_bytes=0), folder / "vectors", encoder, items
        ).encode,
        "onnx, table": program(FoldedSRGNN([encoder.layers()]), folder / "table", encoder, items).encode,
        "kernel, vectors": kernel(
            FoldedSRGNN([encoder.layers()], max_table_bytes=0), folder / "kernel", encoder, items
        ).encode,
        "kernel, table": kernel(FoldedSRGNN([encoder.layers()]), folder / "kernel-table", encoder, items).encode,
    }


def program(form: torch.nn.Module, folder: Path, encoder: SRGNN, items: int) -> Encoder:
    """Export a form of the encoder to `folder` and load it into ONNX Runtime."""
    folder.mkdir()
    write_form(form, folder / "encoder.onnx", takes_users=False)
    return Encoder.load(
        folder / "encoder.onnx",
        items=items,
        dimension=encoder.dimension,
        interests=1,
        max_length=encoder.max_length,
    )


def kernel(form: FoldedSRGNN, folder: Path, encoder: SRGNN, items: int) -> Encoder:
    """Export a form of the encoder and compile its kernel to machine code."""
    accelerated = program(form, folder, encoder, items)
    accelerated.accelerate(folder, form.kernel()[0], sessions=[[1, 2, 1, 3]])
    return accelerated
