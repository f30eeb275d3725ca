"""Ablation: run the service with one part disabled, `python -m tests.benchmarks.ablation PART serve ...`.

A part with results works for the first requests; its results are recorded and replayed for all later ones. So the rest
of the service receives realistic values and spends on them what it always does.
"""

import sys
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from onward.service.__main__ import main
from tests.benchmarks import service_patches as service
from tests.benchmarks.service_patches import PatchPoint, without_telemetry

RECORDED_CALLS = 512
MAX_BATCH = 16
"""The most requests that the service handles in one micro-batch."""


class Replay:
    """Calls a function and records its results; after `RECORDED_CALLS` it returns these in turn instead."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._results: list[Any] = []
        self._numbers = count()

    def __get__(self, instance: object, _owner: type[Any]) -> Callable[..., Any]:
        """Bind to an instance, as a function does."""
        return lambda *arguments, **named: self(instance, *arguments, **named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function, or return a recorded result."""
        if self._is_full:
            return self._next()
        self._results.append(self._function(*arguments, **named))
        return self._results[-1]

    @property
    def _is_full(self) -> bool:
        return len(self._results) >= RECORDED_CALLS

    def _next(self) -> Any:
        return self._results[next(self._numbers) % RECORDED_CALLS]


class ReplayAsync(Replay):
    """Replays a coroutine function."""

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Await the function, or return a recorded result."""
        if self._is_full:
            return self._next()
        self._results.append(await self._function(*arguments, **named))
        return self._results[-1]


class ReplayLists(Replay):
    """Replays a coroutine method that takes a batch and returns a list with a result for each of its entries."""

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Await the method, or return recorded results."""
        if self._is_full:
            return [self._next() for _ in arguments[1]]
        results = await self._function(*arguments, **named)
        self._results += results
        return results


class ReplayRows(Replay):
    """Replays a method that takes a batch and returns one array or several, with a row for each entry of the batch."""

    _columns: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the method, or return recorded rows."""
        if not self._is_full:
            result = self._function(*arguments, **named)
            arrays = [array.copy() for array in (result if isinstance(result, tuple) else (result,))]
            if self._results and self._results[-1][0].shape != arrays[0][0].shape:  # the bundle's check at loading
                self._results.clear()
            self._results += zip(*arrays, strict=True)
            return result
        self._columns = self._columns or tuple(map(np.stack, zip(*self._results, strict=True)))
        rows = len(arguments[1])
        first = MAX_BATCH * next(self._numbers) % (len(self._results) - rows)
        batch = tuple(column[first : first + rows] for column in self._columns)
        return batch if len(batch) > 1 else batch[0]


def replay(point: PatchPoint, kind: type[Replay] = Replay) -> None:
    """Replace a function by the replay of its first results."""
    point.replace(kind(getattr(point.owner, point.name))).start()


def skip(point: PatchPoint) -> None:
    """Replace a function by one that does nothing."""
    point.replace(lambda *_arguments, **_named: None).start()


def replay_body() -> None:
    """Disable parsing and validation of the request body."""
    replay(service.VALIDATE_BODY)
    replay(service.PARSE_BODY)


def replay_encoder() -> None:
    """Disable the encoder, for one session and for a batch."""
    for engine in service.ENCODE:
        replay(engine, ReplayRows)


PARTS: Mapping[str, Callable[[], object]] = {
    "all but HTTP": lambda: replay(service.HANDLE_REQUEST, ReplayAsync),
    "body read and validated": replay_body,
    "answer found: store, encoder, index, items, record": lambda: replay(service.RECOMMEND, ReplayAsync),
    "call of the session store": lambda: replay(service.APPEND_SESSIONS, ReplayLists),
    "events told to counters and popularity": lambda: skip(service.NOTIFY_LISTENERS),
    "encoding": replay_encoder,
    "search": lambda: replay(service.SEARCH, ReplayRows),
    "record of the answer": lambda: skip(service.RECORD_ANSWER),
    "answer in JSON": lambda: replay(service.SERIALIZE_ANSWER),
    "metrics": without_telemetry().__enter__,
}
"""How to disable each part, by the names that the records in docs/performance hold."""


if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    main()
