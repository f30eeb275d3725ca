import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.lru_cache import ENTRY_BYTES, LRUCache

VALUE_BYTES = 10_000


def value() -> NDArray[np.uint8]:
    return np.zeros(VALUE_BYTES, dtype=np.uint8)


def cache(values: int) -> LRUCache[NDArray[np.uint8]]:
    return LRUCache(values * (VALUE_BYTES + ENTRY_BYTES))


def test_the_least_recently_used_values_give_way_beyond_the_budget() -> None:
    cached = cache(2)
    for key in ("a", "b", "a", "c"):
        cached.get(key, value)
    assert [key in cached for key in "abc"] == [True, False, True]


def test_a_replaced_value_takes_its_memory_once() -> None:
    cached = cache(2)
    for _ in range(10):
        cached.put("a", value())
    cached.put("b", value())
    assert [key in cached for key in "ab"] == [True, True]


def test_a_value_beyond_the_budget_is_kept_alone() -> None:
    cached = cache(0)
    for key in "ab":
        cached.get(key, value)
    assert [key in cached for key in "ab"] == [False, True]


def test_small_values_are_limited_too() -> None:
    cached: LRUCache[NDArray[np.uint8]] = LRUCache(10 * ENTRY_BYTES)
    for number in range(100):
        cached.get(str(number), lambda: np.zeros(1, dtype=np.uint8))
    assert sum(str(number) in cached for number in range(100)) == 9
