"""A small least-recently-used cache."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """The `size` most recently used values, by key. Thread-safe.

    Unlike functools.lru_cache around a method it holds no reference to the owner: a bundle that a newer one replaces is
    freed at once, without waiting for garbage collection.
    """

    def __init__(self, size: int) -> None:
        self._size = size
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
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()

    def get(self, key: str, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`, computing it if it is missing; two threads may both compute it."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = compute()
        self.put(key, value)
        return value
