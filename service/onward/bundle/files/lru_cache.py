"""What was made last, kept to be given again."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class LRUCache(Generic[Made]):
    """The `size` values that were asked for last, by key. Several threads may use it at once.

    Unlike functools.lru_cache around a method it holds no reference to what owns it: a bundle that a newer one
    replaces is freed at once, which no garbage collection does for it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, Made] = OrderedDict()
        self._changing = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, make: Callable[[], Made]) -> Made:
        """Return the value of `key`, making it where it is not there; two threads may both make it."""
        with self._changing:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._changing:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value
