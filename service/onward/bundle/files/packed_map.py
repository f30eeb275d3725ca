"""PackedMap: an immutable mapping of many small records, which shares all but what differs with the one before it.

A trie by the hash of the keys, four branches at each node, whose leaves are bytes: up to a dozen records, packed by
`marshal`. Changing a key copies one leaf and the few nodes above it. A record takes its packed size and some 20 bytes,
a tenth of what a dict of Python objects takes, and garbage collection has nothing to look at. See decision 46.
"""

import marshal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

BITS = 2
BRANCHES = 1 << BITS
MAX_LEAF = 12
"""Records of a leaf; a larger one is split. Reading a record unpacks its leaf."""
DEEPEST = 60
"""Bits of a hash that are used, so that keys of equal hashes share a leaf of any size."""
FORMAT = 2
"""Version of `marshal` without references, so that equal records are packed to equal bytes."""

Key = TypeVar("Key", str, int)
Record = TypeVar("Record")
Leaf = bytes
Node = Leaf | tuple[Any, ...]
_EMPTY: Leaf = b""


class PackedMap(Mapping[Key, Record], Generic[Key, Record]):
    """Maps texts or integers to records of what `marshal` packs: numbers, texts, bytes, None, tuples, lists, dicts.

    Immutable and thread-safe. It lives in one process: texts have another hash in each.
    """

    __slots__ = ("_root", "_size")

    def __init__(self, root: Node = _EMPTY, size: int = 0) -> None:
        """Take the root of a trie and the number of its records; an empty map by default."""
        self._root = root
        self._size = size

    def updated(self, records: Mapping[Key, Record], removed: Iterable[Key] = ()) -> "PackedMap[Key, Record]":
        """Return the map with these records, and without the removed keys; it is this one if nothing differs."""
        changes: list[tuple[Any, Any, Any]] = [(hash(key), key, record) for key, record in records.items()]
        changes += [(hash(key), key, _REMOVED) for key in removed]
        root, added = _updated(self._root, 0, changes) if changes else (self._root, 0)
        return self if root is self._root else PackedMap(root, self._size + added)

    def differences(self, other: "PackedMap[Key, Record]") -> Iterator[tuple[Key, Record | None, Record | None]]:
        """Yield the keys whose records differ, with this map's record and the other's, None for a missing one.

        The cost is proportional to what the maps do not share.
        """
        return _differences(self._root, other._root)

    def __getitem__(self, key: Key) -> Record:
        node, bits = self._root, hash(key)
        while node.__class__ is tuple:
            node = node[bits & (BRANCHES - 1)]
            bits >>= BITS
        return cast(Record, _unpacked(cast(Leaf, node))[key])

    def __iter__(self) -> Iterator[Key]:
        return (key for key, _ in _records(self._root))

    def records(self) -> Iterator[tuple[Key, Record]]:
        """Yield all keys and records, each leaf being unpacked once; `items` unpacks it for each key."""
        return _records(self._root)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """The bytes that this map takes; it shares most of them with those it was made from."""
        return _nbytes(self._root)


class _Removed:
    """Marks a removed key."""


_REMOVED = _Removed()


def _unpacked(leaf: Leaf) -> dict[Any, Any]:
    return cast(dict[Any, Any], marshal.loads(leaf)) if leaf else {}  # noqa: S302  # packed by this process


def _updated(node: Node, depth: int, changes: list[tuple[Any, Any, Any]]) -> tuple[Node, int]:
    """Return a node with changes (hash, key, record), and by how many records it grew."""
    if isinstance(node, tuple):
        if len(changes) == 1:
            branch = changes[0][0] >> depth & (BRANCHES - 1)
            child, added = _updated(node[branch], depth + BITS, changes)
            return node if child is node[branch] else (*node[:branch], child, *node[branch + 1 :]), added
        by_branch: defaultdict[int, list[tuple[Any, Any, Any]]] = defaultdict(list)
        for change in changes:
            by_branch[change[0] >> depth & (BRANCHES - 1)].append(change)
        children, total, differs = list(node), 0, False
        for branch, some in by_branch.items():
            children[branch], added = _updated(children[branch], depth + BITS, some)
            total += added
            differs = differs or children[branch] is not node[branch]
        return tuple(children) if differs else node, total
    records = _unpacked(node)
    if all(records.get(key, _REMOVED) == record for _, key, record in changes):
        return node, 0
    before = len(records)
    for _, key, record in changes:
        records.pop(key, None)  # so that it goes to the end: the order of a leaf is that of the changes
        if record is not _REMOVED:
            records[key] = record
    return _packed(records, depth), len(records) - before


def _packed(records: dict[Any, Any], depth: int) -> Node:
    if len(records) <= MAX_LEAF or depth >= DEEPEST:
        return marshal.dumps(records, FORMAT) if records else _EMPTY
    branches: list[dict[Any, Any]] = [{} for _ in range(BRANCHES)]
    for key, record in records.items():
        branches[hash(key) >> depth & (BRANCHES - 1)][key] = record
    return tuple(_packed(branch, depth + BITS) for branch in branches)


def _differences(one: Node, other: Node) -> Iterator[Any]:
    if one is other:
        return
    if isinstance(one, tuple) and isinstance(other, tuple):
        for child, other_child in zip(one, other, strict=True):
            if child is not other_child:
                yield from _differences(child, other_child)
    elif one != other:
        records, others = dict(_records(one)), dict(_records(other))
        for key, record in others.items():
            before = records.pop(key, None)
            if before != record:
                yield key, before, record
        yield from ((key, record, None) for key, record in records.items())


def _records(node: Node) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, tuple):
        for child in node:
            yield from _records(child)
    else:
        yield from _unpacked(node).items()


def _nbytes(node: Node) -> int:
    return node.__sizeof__() + (sum(map(_nbytes, node)) if isinstance(node, tuple) else 0)
