"""A least-recently-used cache with a budget of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class InMemory(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes, which never changes."""
        ...


Value = TypeVar("Value", bound=InMemory)

ENTRY_BYTES = 4_096
"""What an entry takes beside its value, at most about."""


class LRUCache(Generic[Value]):
    """The most recently used values, by key, as far as a budget holds them, but at least one. Thread-safe.

    Unlike functools.lru_cache around a method it holds no reference to the owner: a bundle that a newer one replaces is
    freed at once, without waiting for garbage collection.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._used_bytes = 0
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def peek(self, key: str) -> Value | None:
        """Return the value of `key`, None if it is missing."""
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Set the value of `key`."""
        with self._lock:
            if (replaced := self._values.pop(key, None)) is not None:
                self._used_bytes -= ENTRY_BYTES + replaced.nbytes
            self._values[key] = value
            self._used_bytes += ENTRY_BYTES + value.nbytes
            while self._used_bytes > self._budget_bytes and len(self._values) > 1:
                _, removed = self._values.popitem(last=False)
                self._used_bytes -= ENTRY_BYTES + removed.nbytes

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()
            self._used_bytes = 0

    def get(self, key: str, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`, computing it if it is missing; two threads may both compute it."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = compute()
        self.put(key, value)
        return value
