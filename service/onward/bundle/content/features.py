"""The content of an item as numbers: features of its attributes, which a content program turns into a vector.

An attribute gives features in groups:
- `value`: each text, list entry, boolean and number as a whole, or `other` if fewer than two trained items have it;
- `word`: the words of a text; `gram`: the pieces of 3 and 4 characters of each word, written `<word>`;
- `bin` and `quarter`: where a number or date lies among those of trained items, in sixteenths and quarters of these;
- `missing`: the item lacks the attribute.

Fields of objects are attributes of their own, `size.width`. Case and repeated spaces do not count. What JSON does not
have (NaN, infinity) is missing, and so is an empty text or list.

A feature is known by the first 64 bits (8-byte BLAKE2b digest, big-endian, signed) of attribute, group and text in
UTF-8 with zero bytes between them. Features that at least two trained items have are numbered from 1 in ascending order
of these digests; others do not count. A feature's weight is its rarity, ln((T + 1) / n) if n of T trained items have
it, and the weights of each group of an attribute are scaled to length 1, so that a long description counts no more
than a category.

Dimension key: F known features, T features of an item, or trained items.
"""

import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.attributes import comparable

MAX_FEATURES = 65_536
"""Number of features that are known at the most: those that most items have."""
MAX_ATTRIBUTES = 256
"""Number of attributes that are read at the most: those that most items have."""
MIN_ITEMS = 2
MAX_TEXT = 1_000
"""Characters of a text that are read."""
MAX_VALUES = 64
"""Values of an attribute that are read."""
MAX_DEPTH = 4
"""Levels of objects and lists that are read."""
BINS = 16
BINS_OF_A_QUARTER = 4
GRAMS = (3, 4)
NOT_CONTENT = frozenset({"available"})
CACHED_WORDS = 65_536
LARGEST_INTEGER = 10**300

_WORD = re.compile(r"\w{1,40}")


class ItemFeatures(NamedTuple):
    """The features of an item, rows of the program's table in ascending order, and their weights."""

    rows_T: NDArray[np.int64]
    weights_T: NDArray[np.float32]


class _Feature(NamedTuple):
    attribute: str
    group: str
    digest: int
    otherwise: int | None = None
    """The digest to look up if this one is not known."""


@dataclass(frozen=True)
class ContentFeatures:
    """Turns attributes into features; fitted to the attributes of trained items. Thread-safe."""

    edges: Mapping[str, Sequence[float]]
    """For each attribute that counts, the numbers that divide its bins, in ascending order; none without numbers."""
    dates: frozenset[str]
    """Attributes whose texts are dates."""
    known_F: NDArray[np.int64]
    """Digests of the known features, in ascending order."""
    rarity_F: NDArray[np.float32]

    @classmethod
    def fit(cls, items: Sequence[Mapping[str, Any]]) -> "ContentFeatures":
        """Choose the features of trained items, given their attributes."""
        values = [_values(attributes) for attributes in items]
        present = Counter(name for of_item in values for name in of_item)
        names = sorted(sorted(present, key=lambda name: (-present[name], name))[:MAX_ATTRIBUTES])
        dates = frozenset(name for name in names if _are_dates(of_item.get(name, ()) for of_item in values))
        edges = {name: _edges("date" if name in dates else "number", name, values) for name in names}
        empty = cls(edges, dates, np.empty(0, np.int64), np.empty(0, np.float32))
        counts, others = Counter[int](), Counter[int]()
        for of_item in values:
            counts.update({feature.digest for feature in empty._features(of_item)})
        for of_item in values:
            others.update(
                {
                    feature.otherwise
                    for feature in empty._features(of_item)
                    if feature.otherwise is not None and counts[feature.digest] < MIN_ITEMS
                }
            )
        counts.update(others)
        common = sorted((-count, digest) for digest, count in counts.items() if count >= MIN_ITEMS)[:MAX_FEATURES]
        chosen = sorted(digest for _, digest in common)
        rarity = [math.log((len(items) + 1) / counts[digest]) for digest in chosen]
        return cls(edges, dates, np.array(chosen, np.int64), np.array(rarity, np.float32))

    def of(self, attributes: Mapping[str, Any]) -> ItemFeatures | None:
        """Return the features of an item; None if it has no attribute that trained items have.

        Args:
            attributes: values of JSON; any others count as missing.
        """
        groups: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for feature in self._features(_values(attributes)):
            row = self._row(feature.digest) or (self._row(feature.otherwise) if feature.otherwise is not None else 0)
            if row:
                groups[feature.attribute, feature.group].add(row)
        if all(group == "missing" for _, group in groups):
            return None
        weights: dict[int, float] = {}
        for rows in groups.values():
            rarity = {row: float(self.rarity_F[row - 1]) for row in sorted(rows)}
            length = math.sqrt(sum(weight * weight for weight in rarity.values()))
            weights |= {row: weight / length for row, weight in rarity.items()}
        rows_T = np.array(sorted(weights), dtype=np.int64)
        return ItemFeatures(rows_T, np.array([weights[row] for row in rows_T.tolist()], dtype=np.float32))

    def attributes_of(self, attributes: Mapping[str, Any]) -> list[str]:
        """Return the item's attributes, by their names without those of fields, that count."""
        return sorted(name for name in attributes if _values({name: attributes[name]}).keys() & self.edges.keys())

    def _row(self, digest: int) -> int:
        """Return the row of a feature, 0 if it is not known."""
        place = int(np.searchsorted(self.known_F, digest))
        return place + 1 if place < len(self.known_F) and self.known_F[place] == digest else 0

    def _features(self, values: Mapping[str, Sequence[Any]]) -> Iterator[_Feature]:
        for name, edges in self.edges.items():
            if not values.get(name):
                yield _Feature(name, "missing", _digest(name, "missing", ""))
            is_date = name in self.dates
            other = _digest(name, "other", "")
            for value in values.get(name, ()):
                number = comparable("date" if is_date else "number", value)
                if number is not None and edges:
                    place = bisect_right(edges, float(number))
                    yield _Feature(name, "bin", _digest(name, "bin", str(place)))
                    quarter = str(place // BINS_OF_A_QUARTER)
                    yield _Feature(name, "quarter", _digest(name, "quarter", quarter))
                text = _text(value)
                yield _Feature(name, "value", _digest(name, "value", text), other)
                for word in _WORD.findall(text) if isinstance(value, str) and not is_date else ():
                    whole, *grams = _word_digests(name, word)
                    yield _Feature(name, "word", whole)
                    yield from (_Feature(name, "gram", gram) for gram in grams)


def _values(attributes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the texts, booleans and finite numbers of each attribute, by its path."""
    values: dict[str, list[Any]] = {}
    for path, value in _leaves(attributes, "", 0):
        of_path = values.setdefault(path, [])
        if len(of_path) < MAX_VALUES:
            of_path.append(value)
    return values


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, field in value.items() if depth < MAX_DEPTH else ():
            yield from _leaves(field, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(value, list | tuple):
        for entry in value[:MAX_VALUES] if depth < MAX_DEPTH else ():
            yield from _leaves(entry, path, depth + 1)
    elif path not in NOT_CONTENT and _counts(value):
        yield path, value


def _counts(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < LARGEST_INTEGER


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return " ".join(value[:MAX_TEXT].casefold().split())
    if isinstance(value, bool):
        return str(value).casefold()
    return str(int(value)) if value == int(value) else repr(value)


def _are_dates(lists: Iterable[Sequence[Any]]) -> bool:
    values = [value for of_item in lists for value in of_item]
    return bool(values) and all(comparable("date", value) is not None for value in values)


def _edges(kind: Any, name: str, values: Iterable[Mapping[str, Sequence[Any]]]) -> list[float]:
    numbers = [comparable(kind, value) for of_item in values for value in of_item.get(name, ())]
    present = np.array([float(number) for number in numbers if number is not None])
    if len(present) < BINS:
        return []
    edges: list[float] = np.unique(np.quantile(present, np.arange(1, BINS) / BINS, method="lower")).tolist()
    return edges


@lru_cache(CACHED_WORDS)
def _word_digests(attribute: str, word: str) -> tuple[int, ...]:
    marked = f"<{word}>"
    pieces = {marked[start : start + size] for size in GRAMS for start in range(len(marked) - size + 1)}
    return (_digest(attribute, "word", word), *(_digest(attribute, "gram", piece) for piece in sorted(pieces)))


def _digest(attribute: str, group: str, text: str) -> int:
    content = "\0".join((attribute, group, text)).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), signed=True)
