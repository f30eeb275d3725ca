"""The service with a part of it left out: `python -m tests.benchmarks.left_out PART serve ...`.

A part that gives something is at work for the first requests; what it gave them is given again to all others. So the
rest of the service finds what it always finds, and spends on it what it always does.
"""

import sys
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np

from onward.bundle.encoder.encoder import Encoder
from onward.bundle.search.faiss_index import FaissIndex
from onward.service.__main__ import main
from onward.service.http import fast_route
from onward.service.http.fast_protocol import FastPath
from onward.service.http.routes import recommendations
from onward.service.recommend.recommender import Recommender
from onward.service.records.recorder import Recorder
from onward.service.sessions import Listeners, RedisSessionStore
from tests.benchmarks.stages import untold

KEPT = 512
TOGETHER = 16


class Again:
    """What a function gave to its first calls, given again to all others."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._given: list[Any] = []
        self._numbers = count()

    def __get__(self, instance: object, _owner: type[Any]) -> Callable[..., Any]:
        """As the method of an object, as a function is."""
        return lambda *arguments, **named: self(instance, *arguments, **named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function, or do without."""
        if self._is_full:
            return self._next()
        self._given.append(self._function(*arguments, **named))
        return self._given[-1]

    @property
    def _is_full(self) -> bool:
        return len(self._given) >= KEPT

    def _next(self) -> Any:
        return self._given[next(self._numbers) % KEPT]


class AwaitedAgain(Again):
    """The same of a coroutine function."""

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function, or do without."""
        if self._is_full:
            return self._next()
        self._given.append(await self._function(*arguments, **named))
        return self._given[-1]


class ListsAgain(Again):
    """The same of a coroutine method that gives something for each of what it is asked."""

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the method, or do without."""
        if self._is_full:
            return [self._next() for _ in arguments[1]]
        given = await self._function(*arguments, **named)
        self._given += given
        return given


class RowsAgain(Again):
    """The same of a method that gives arrays, with a row for each of what it is asked."""

    _columns: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the method, or do without."""
        if not self._is_full:
            given = self._function(*arguments, **named)
            arrays = [array.copy() for array in (given if isinstance(given, tuple) else (given,))]
            if self._given and self._given[-1][0].shape != arrays[0][0].shape:  # what a bundle tries as it is loaded
                self._given.clear()
            self._given += zip(*arrays, strict=True)
            return given
        self._columns = self._columns or tuple(map(np.stack, zip(*self._given, strict=True)))
        rows = len(arguments[1])
        first = TOGETHER * next(self._numbers) % (len(self._given) - rows)
        found = tuple(column[first : first + rows] for column in self._columns)
        return found if len(found) > 1 else found[0]


def again(owner: Any, name: str, way: type[Again] = Again) -> None:
    """Have a function give again what it gave."""
    patch.object(owner, name, way(getattr(owner, name))).start()


def silence(owner: Any, name: str) -> None:
    """Have a function do nothing."""
    patch.object(owner, name, lambda *_arguments, **_named: None).start()


def read_no_body() -> None:
    """Leave out the reading of JSON and its validation."""
    (route,) = recommendations.fast.routes
    again(route.body_field, "validate")  # type: ignore[attr-defined]  # a HotRoute has one
    again(fast_route, "_parsed")


def encode_nothing() -> None:
    """Leave out the encoder, of one session and of several."""
    again(Encoder, "encode")
    again(Encoder, "encode_all", RowsAgain)


PARTS: Mapping[str, Callable[[], object]] = {
    "all but HTTP": lambda: again(FastPath, "respond", AwaitedAgain),
    "body read and validated": read_no_body,
    "answer found: store, encoder, index, items, record": lambda: again(Recommender, "recommend", AwaitedAgain),
    "call of the session store": lambda: again(RedisSessionStore, "append_all", ListsAgain),
    "events told to counters and popularity": lambda: silence(Listeners, "applied"),
    "encoding": encode_nothing,
    "search": lambda: again(FaissIndex, "search", RowsAgain),
    "record of the answer": lambda: silence(Recorder, "served"),
    "answer in JSON": lambda: again(recommendations, "recommendation_json"),
    "metrics": untold().__enter__,
}


if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    main()
