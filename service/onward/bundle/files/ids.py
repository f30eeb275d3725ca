"""Files of ids, one a line: line n is the id of row n.

The ids stay in the memory-mapped file, which the processes of a machine share, and a hash table with open addressing
finds their rows. For ten million ids a process needs 200 MB; a list and a dict would need two gigabytes.

Dimension key: N ids, C a subset of them.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.id_rule import MAX_ID_LENGTH, stored_id_fault
from onward.bundle.files.manifest import BundleError

PRIME, FACTOR = 1_610_612_741, 11_400_714_819_323_198_485
"""An id's hash is its bytes as one number modulo PRIME; FACTOR, 2^64 / 1.618, spreads it over the slots
(multiplicative or Fibonacci hashing)."""
MASK_64_BITS = 2**64 - 1
NEWLINE = ord("\n")
CACHED_IDS = 65_536


class Ids:
    """Maps ids to rows and rows to ids. Thread-safe."""

    def __init__(self, content: mmap.mmap, offsets_N1: NDArray[np.int64], slots: NDArray[np.int32], bits: int) -> None:
        """Take the mapped file, the offsets of its lines, and a hash table of rows by the first `bits` of a hash."""
        self._content = content
        self._offsets_N1 = offsets_N1.data
        self._slots = slots.data
        self._shift = 64 - bits
        self._cached_rows: dict[str, int] = {}
        self._cached_ids: dict[int, str] = {}

    @classmethod
    def load(cls, path: Path, count: int) -> "Ids":
        """Map a file of `count` ids. Raises BundleError."""
        content, offsets_N1 = _map_file(path, count)
        slots, bits = _hash_table(path.name, content, offsets_N1)
        return cls(content, offsets_N1, slots, bits)

    def __len__(self) -> int:
        return len(self._offsets_N1) - 1

    @property
    def content(self) -> mmap.mmap:
        """The mapped file, which stays readable after the file is deleted."""
        return self._content

    def row(self, item_id: str) -> int | None:
        """Return the row of an id, None if the file does not have it."""
        row = self._cached_rows.get(item_id)
        if row is None and (row := self._look_up(item_id.encode(errors="surrogatepass"))) is not None:
            self._cache_row(item_id, row)
        return row

    def find(self, item_id: str) -> int | None:
        """Return the row of an id, as `row` does, without caching it."""
        return self._cached_rows.get(item_id) or self._look_up(item_id.encode(errors="surrogatepass"))

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the row of each id, as `row` does."""
        try:
            return list(map(self._cached_rows.__getitem__, item_ids))
        except KeyError:
            return [self.row(item_id) for item_id in item_ids]

    def id_of(self, row: int) -> str:
        """Return the id of a row from 1..N."""
        item_id = self._cached_ids.get(row)
        if item_id is None:
            if len(self._cached_ids) >= CACHED_IDS:
                self._cached_ids = {}
            self._cached_ids[row] = item_id = self.read(row)
            self._cache_row(item_id, row)
        return item_id

    def read(self, row: int) -> str:
        """Return the id of a row from 1..N, as `id_of` does, without caching it."""
        return self._line(row).decode()

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row, as `id_of` does."""
        try:
            return list(map(self._cached_ids.__getitem__, rows))
        except KeyError:
            return [self._cached_ids.get(row) or self.id_of(row) for row in rows]

    def _cache_row(self, item_id: str, row: int) -> None:
        if len(self._cached_rows) >= CACHED_IDS:
            self._cached_rows = {}
        self._cached_rows[item_id] = row

    def _line(self, row: int) -> bytes:
        return self._content[self._offsets_N1[row - 1] : self._offsets_N1[row] - 1]

    def _look_up(self, line: bytes) -> int | None:
        place = (int.from_bytes(line) % PRIME * FACTOR & MASK_64_BITS) >> self._shift
        while row := self._slots[place]:
            if self._line(row) == line:
                return row
            place += 1
        return None


class IdLines:
    """The ids of a file by row, without the table that finds the row of an id: 8 bytes a row. Thread-safe."""

    def __init__(self, content: mmap.mmap) -> None:
        """Find the lines of a mapped file that was checked when it was published."""
        self._content = content
        self._ends_N = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == NEWLINE)

    @staticmethod
    def read(path: Path) -> mmap.mmap:
        """Read a file of ids into memory. Raises OSError, and ValueError if it is empty."""
        content = mmap.mmap(-1, path.stat().st_size)
        with path.open("rb") as file:
            if file.readinto(content) != len(content):
                raise ValueError(f"{path.name} shrank while it was read")
        return content

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row from 1..N. Raises IndexError for any other row."""
        return [self._item_id(row) for row in rows]

    def _item_id(self, row: int) -> str:
        if not 0 < row <= len(self._ends_N):
            raise IndexError(f"no row {row}")
        start = 0 if row == 1 else int(self._ends_N[row - 2]) + 1
        return self._content[start : int(self._ends_N[row - 1])].decode()


def write_ids(path: Path, ids: Sequence[str]) -> None:
    """Write a file of ids. Raises BundleError if one is invalid or repeated."""
    _check_ids(path.name, ids)
    path.write_bytes("".join(f"{value}\n" for value in ids).encode())


def read_ids(path: Path, count: int) -> list[str]:
    """Read a file of `count` ids. Raises BundleError."""
    ids = Ids.load(path, count)
    return [ids.id_of(row) for row in range(1, count + 1)]


def _map_file(path: Path, count: int) -> tuple[mmap.mmap, NDArray[np.int64]]:
    """Map the file and return the offset of each line, the last number being the file's size."""
    if not path.stat().st_size:
        raise BundleError(f"{path.name}: 0 complete lines, expected {count}")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    characters = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(characters == NEWLINE)
    if len(ends) != count or characters[-1] != NEWLINE:
        raise BundleError(f"{path.name}: {len(ends)} complete lines, expected {count}")
    offsets_N1 = np.concatenate([[0], ends + 1])
    lengths_N = np.diff(offsets_N1) - 1
    is_printable_ascii = bool((characters < 0x7F).all()) and not bool(
        ((characters < ord(" ")) & (characters != NEWLINE)).any()
    )
    if not is_printable_ascii:
        _check_ids(path.name, _decoded(path.name, content[:]))
    elif not 0 < lengths_N.min() <= lengths_N.max() <= MAX_ID_LENGTH:
        line = np.flatnonzero((lengths_N == 0) | (lengths_N > MAX_ID_LENGTH))[0] + 1
        raise BundleError(f"{path.name}: line {line}: an id has 1 to {MAX_ID_LENGTH} characters")
    return content, offsets_N1


def _decoded(name: str, content: bytes) -> list[str]:
    try:
        return content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise BundleError(f"{name}: not UTF-8 at byte {error.start}") from error


def _hash_table(name: str, content: mmap.mmap, offsets_N1: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Build a hash table of rows by linear probing: 1.5 to 3 slots per row, and a free slot at the end.

    Returns the slots, where 0 is a free one, and the number of bits of a hash that choose a slot.
    Raises BundleError if an id is repeated.
    """
    hashes_N = _hashes(np.frombuffer(content, dtype=np.uint8), offsets_N1)
    _check_repeats(name, content, offsets_N1, hashes_N)
    bits = int(np.ceil(np.log2(1.5 * len(hashes_N)))) if len(hashes_N) > 1 else 1
    with np.errstate(over="ignore"):
        home_N = ((hashes_N * np.uint64(FACTOR)) >> np.uint64(64 - bits)).astype(np.int64)
    # In the order of their home slots, each row takes its home slot or the one after the row before it.
    order_N = np.argsort(home_N, kind="stable")
    numbers_N = np.arange(len(order_N))
    places_N = numbers_N + np.maximum.accumulate(home_N[order_N] - numbers_N)
    slots = np.zeros(max(int(places_N[-1]) + 2, 2**bits + 1), dtype=np.int32)
    slots[places_N] = order_N + 1
    return slots, bits


def _hashes(characters: NDArray[np.uint8], offsets_N1: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the hash of each line: its bytes, without the newline, as one number modulo PRIME."""
    starts_N, lengths_N = offsets_N1[:-1], np.diff(offsets_N1) - 1
    hashes_N = np.zeros(len(starts_N), dtype=np.uint64)
    prime, base = np.uint64(PRIME), np.uint64(256)
    for place in range(int(lengths_N.max())):
        if place < lengths_N.min():
            hashes_N = (hashes_N * base + characters[starts_N + place]) % prime
            continue
        longer_C = np.flatnonzero(lengths_N > place)
        hashes_N[longer_C] = (hashes_N[longer_C] * base + characters[starts_N[longer_C] + place]) % prime
    return hashes_N


def _check_repeats(name: str, content: mmap.mmap, offsets_N1: NDArray[np.int64], hashes_N: NDArray[np.uint64]) -> None:
    """Compare the lines whose hashes are equal."""
    order_N = np.argsort(hashes_N, kind="stable")
    sorted_N = hashes_N[order_N]
    first: dict[bytes, int] = {}
    equal = np.flatnonzero(sorted_N[1:] == sorted_N[:-1])
    for row in np.unique(order_N[np.concatenate([equal, equal + 1])]).tolist():
        line = content[offsets_N1[row] : offsets_N1[row + 1] - 1]
        if first.setdefault(line, row) != row:
            raise BundleError(f"{name}: line {row + 1}: the id of line {first[line] + 1} again")


def _check_ids(name: str, ids: Sequence[str]) -> None:
    for line, value in enumerate(ids, start=1):
        if (fault := stored_id_fault(value)) is not None:
            raise BundleError(f"{name}: line {line}: {fault}")
    if len(set(ids)) != len(ids):
        first_lines: dict[str, int] = {}
        line = next(line for line, value in enumerate(ids, 1) if first_lines.setdefault(value, line) != line)
        raise BundleError(f"{name}: line {line}: the id of line {first_lines[ids[line - 1]]} again")
