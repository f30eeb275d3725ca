"""One SR-GNN by everything that can run it, from what public code does to machine code.

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
from tests.benchmarks.made_up import made_up_corpus, sizes_of
from tests.benchmarks.plain_srgnn import PlainSRGNN, plain_batch

RECIPE = "srgnn-diginetica-paper"
LENGTHS = (5, 10, 20, 50)
SESSIONS_OF_A_ROUND = 50
REFERENCE = "torch, graph in Python"
"""What public code does, and what the others are measured against."""

PROFILED = 20
"""Items of the sessions that the parts of the kernel are timed with."""

T = TypeVar("T")
Rows = list[int]
Engine = Callable[[Rows], NDArray[np.float32]]


def compare(
    folder: Path, sessions_of: Callable[[random.Random, int, int], Rows], rounds: int
) -> dict[str, dict[str, Any]]:
    """Processor time of a call by each engine, in us, for each length of session; all take turns in every round.

    Beside it, how many times as fast that is as `REFERENCE`, by the median of the rounds' ratios, and the largest
    difference of the interests from those of torch.

    Args:
        folder: programs are written there.
        sessions_of: makes a session of so many items, of a catalog of so many.
        rounds: measurements of each engine and length.
    """
    torch.set_num_threads(1)
    items = sizes_of(RECIPE).items
    engines = engines_of(untrained(), folder, items)
    generator = random.Random(1)
    sessions = {
        length: [sessions_of(generator, items, length) for _ in range(SESSIONS_OF_A_ROUND)] for length in LENGTHS
    }
    return {str(length): compare_at(engines, sessions[length], rounds) for length in LENGTHS}


def compare_at(engines: Mapping[str, Engine], sessions: list[Rows], rounds: int) -> dict[str, Any]:
    """What `compare` gives of one length."""
    expected = [engines[REFERENCE](rows) for rows in sessions]
    differences = {
        name: max(float(np.abs(engine(rows) - one).max()) for rows, one in zip(sessions, expected, strict=True))
        for name, engine in engines.items()
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name].append(cpu_us(engine, sessions))
    return {
        name: {
            "cpu_us": round(median(of_engine), 1),
            "times_as_fast": round(
                median(plain / own for plain, own in zip(times[REFERENCE], of_engine, strict=True)), 1
            ),
            "difference": float(f"{differences[name]:.1e}"),
        }
        for name, of_engine in times.items()
    }


def kernel_parts(folder: Path, sessions_of: Callable[[random.Random, int, int], Rows], rounds: int) -> dict[str, float]:
    """Processor time of the parts of a call of the kernel for `PROFILED` items, in us, by calls that leave parts out.

    As in `compare`, something else runs before the calls with all parts, so that they find the caches as it left them.
    """
    torch.set_num_threads(1)
    items, encoder, generator = sizes_of(RECIPE).items, untrained(), random.Random(1)
    form = FoldedSRGNN([encoder.layers()])
    reference, whole = graph_in_python(encoder), kernel(form, folder / "parts", encoder, items)
    alone = Kernel.load(folder / "parts", form.kernel()[0], items=items, max_length=encoder.max_length)
    interests = np.empty((1, encoder.dimension), dtype=np.float32)
    sessions = [sessions_of(generator, items, PROFILED) for _ in range(SESSIONS_OF_A_ROUND)]
    ready = [np.array(rows) for rows in sessions]

    def write(items_L: NDArray[np.int64]) -> None:
        alone.write(items_L, np.array([len(items_L)]), interests)

    times: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        cpu_us(reference, sessions)
        of_lists = cpu_us(whole.encode, sessions)
        cpu_us(reference, sessions)
        of_arrays = cpu_us(write, ready)
        in_caches, of_one = (cpu_us(write, [same] * SESSIONS_OF_A_ROUND) for same in (ready[0], ready[0][:1]))
        times.append((of_lists, of_arrays, in_caches, of_one))
    of_lists, of_arrays, in_caches, of_one = (median(column) for column in zip(*times, strict=True))
    parts = {
        "lists made into arrays": of_lists - of_arrays,
        "what is not in the caches: rows of the table, code": of_arrays - in_caches,
        "the first item: the call, the products of its last state": of_one,
        "the other items: messages, gates, attention": in_caches - of_one,
    }
    return {name: round(part, 1) for name, part in parts.items()}


def cpu_us(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """Processor time of this thread for a call."""
    started = time.thread_time()
    for argument in arguments:
        call(argument)
    return 1e6 * (time.thread_time() - started) / len(arguments)


def untrained() -> SRGNN:
    """The recipe's encoder."""
    torch.manual_seed(1)
    encoder = Recipe.load(Path(RECIPE)).build(made_up_corpus(sizes_of(RECIPE), seed=1)).eval()
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
    """Every engine by its name, the reference first."""

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
    """`encoder` in a form, exported to `folder` and run by ONNX Runtime."""
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
    """The same, run by machine code."""
    accelerated = program(form, folder, encoder, items)
    accelerated.accelerate(folder, form.kernel()[0], items=items, sessions=[[1, 2, 1, 3]])
    return accelerated
