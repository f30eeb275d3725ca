"""Formulas of the plan, with coefficients fitted to what the benchmarks measured; docs/planning.md explains each.

`tests/service/planning/test_formulas.py` compares them with the records of docs/performance and docs/planning: each is
within 30 %.
"""

import math
from collections.abc import Sequence

MIB = 2**20

REQUEST_CPU = ((43_097, 290e-6), (1_000_000, 490e-6), (10_000_000, 834e-6))
"""Items, and processor time of the service for a request at full load, in s; from 1M items on with a filter."""
STORE_CPU_S = 65e-6
"""Processor time of the store for a request at full load."""
PROCESS_MIB, WORKER_MIB = 204, 188
"""Memory of a replica without items: the part that workers share, and that of each worker."""
SHARED_ITEM_BYTES, WORKER_ITEM_BYTES = 214, 208
"""Memory of an item of 64 numbers: the part that workers share, and that of each worker."""
BUNDLE_ITEM_BYTES = 66
"""Of an item in a bundle: its id, attributes and popularity."""
VECTOR_NUMBER_BYTES, INDEX_NUMBER_BYTES, TABLE_NUMBER_BYTES = 4, 2, 4
"""Of each number of an item's vector in a bundle: in the vectors, in the index, and in the encoder's item table."""
FOLDED_COLUMNS, MAX_FOLDED_BYTES = 10, 256 * MIB
"""A table of this size at most holds so many numbers for each of the vector: what the encoder computes of an item."""
LOAD_S_PER_ITEM = 1.4e-6
START_S = 1.3
SESSION_BYTES, EVENT_BYTES, ANSWER_BYTES = 239, 33, 222
"""In the store: a session without events, each of its events, and each kept answer of 20 items."""
LOGGED_EVENT_BYTES, LOGGED_ANSWER_BYTES = 116, 1_100
TRAINING_EVENT_BYTES = 57
OPTIMIZER_BYTES = 12
"""Memory of a number that is trained by Adam: itself and two moments, in float32."""
EXAMPLE_S, EXAMPLE_NUMBER_S = 6.6e-5, 1.55e-10
"""Training: processor time for an example, and for each number of the item table besides (full softmax, float32)."""


def request_cpu_s(items: int) -> float:
    """Processor time of a request: on straight lines through the logarithms of what was measured, extended beyond."""
    return _interpolated(REQUEST_CPU, items)


def replica_bytes(items: int, dimension: int, workers: int) -> float:
    """Memory of a replica that serves one bundle."""
    share = dimension / 64
    per_item = (SHARED_ITEM_BYTES + WORKER_ITEM_BYTES * workers) * share
    return (PROCESS_MIB + WORKER_MIB * workers) * MIB + items * per_item


def bundle_bytes(items: int, dimension: int) -> float:
    """Size of a bundle on disk."""
    folded_bytes = items * dimension * TABLE_NUMBER_BYTES * FOLDED_COLUMNS
    table_bytes = TABLE_NUMBER_BYTES * (FOLDED_COLUMNS if folded_bytes <= MAX_FOLDED_BYTES else 1)
    return items * (BUNDLE_ITEM_BYTES + dimension * (VECTOR_NUMBER_BYTES + INDEX_NUMBER_BYTES + table_bytes))


def start_s(items: int) -> float:
    """Time from the start of a process to its first answer, with the bundle in the page cache."""
    return START_S + LOAD_S_PER_ITEM * items


def session_bytes(events: float) -> float:
    """Memory of the store for a session and the answers that it got, one for each event."""
    return SESSION_BYTES + events * (EVENT_BYTES + ANSWER_BYTES)


def training_bytes(events: float, items: int, dimension: int) -> float:
    """Memory of a training in one process: its events, the item table with the state of Adam, and its gradient."""
    return events * TRAINING_EVENT_BYTES + items * dimension * (OPTIMIZER_BYTES + 4)


def training_core_s(events: float, items: int, dimension: int, epochs: int) -> float:
    """Processor time of a training over the full softmax."""
    return events * epochs * (EXAMPLE_S + items * dimension * EXAMPLE_NUMBER_S)


def _interpolated(points: Sequence[tuple[int, float]], items: int) -> float:
    above = next((place for place, (size, _) in enumerate(points) if size >= items), len(points) - 1)
    (small, low), (large, high) = points[max(above, 1) - 1], points[max(above, 1)]
    slope = math.log(high / low) / math.log(large / small)
    return low * math.exp(slope * math.log(max(items, 1) / small))
