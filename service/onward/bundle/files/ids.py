"""Files of ids, one a line: line n is the id of row n.

The ids of a catalog stay in their file, which the processes of a machine share; of ten million ids a process holds
200 MB to find them by, where a list and a dict would hold two gigabytes.

Dimension key: N ids, C some of them.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import MAX_ID_LENGTH, BundleError, is_valid_id

PRIME, FACTOR = 1_610_612_741, 11_400_714_819_323_198_485
"""An id's hash is its bytes as one number modulo the prime; the factor, 2^64 / 1.618, spreads it over the slots."""
WORD = 2**64 - 1
NEWLINE = ord("\n")
KEPT = 65_536


class Ids:
    """Ids by their rows and rows by their ids. Several threads may use it at once."""

    def __init__(self, content: mmap.mmap, offsets_N1: NDArray[np.int64], slots: NDArray[np.int32], bits: int) -> None:
        """Take the file, where its lines begin, and a table of rows by the first `bits` of their ids' hashes."""
        self._content = content
        self._offsets_N1 = offsets_N1.data
        self._slots = slots.data
        self._shift = 64 - bits
        self._kept_rows: dict[str, int] = {}
        self._kept_ids: dict[int, str] = {}

    @classmethod
    def load(cls, path: Path, count: int) -> "Ids":
        """Map a file of `count` ids. Raises BundleError."""
        content, offsets_N1 = _mapped(path, count)
        slots, bits = _slots(path.name, content, offsets_N1)
        return cls(content, offsets_N1, slots, bits)

    def __len__(self) -> int:
        return len(self._offsets_N1) - 1

    def row(self, item_id: str) -> int | None:
        """Return the row of an id, None where there is none."""
        row = self._kept_rows.get(item_id)
        if row is None and (row := self._found(item_id.encode(errors="surrogatepass"))) is not None:
            self._keep(item_id, row)
        return row

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of some ids, as `row` does."""
        rows: list[int | None] = list(map(self._kept_rows.get, item_ids))
        return [self.row(item_id) for item_id in item_ids] if None in rows else rows

    def id_of(self, row: int) -> str:
        """Return the id of a row from 1..N."""
        kept = self._kept_ids.get(row)
        if kept is None:
            if len(self._kept_ids) >= KEPT:
                self._kept_ids = {}
            self._kept_ids[row] = kept = self._line(row).decode()
            self._keep(kept, row)
        return kept

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows, as `id_of` does."""
        try:
            return list(map(self._kept_ids.__getitem__, rows))
        except KeyError:
            return [self._kept_ids.get(row) or self.id_of(row) for row in rows]

    def _keep(self, item_id: str, row: int) -> None:
        if len(self._kept_rows) >= KEPT:
            self._kept_rows = {}
        self._kept_rows[item_id] = row

    def _line(self, row: int) -> bytes:
        return self._content[self._offsets_N1[row - 1] : self._offsets_N1[row] - 1]

    def _found(self, line: bytes) -> int | None:
        place = (int.from_bytes(line) % PRIME * FACTOR & WORD) >> self._shift
        while row := self._slots[place]:
            if self._line(row) == line:
                return row
            place += 1
        return None


def write_ids(path: Path, ids: Sequence[str]) -> None:
    """Write a file of ids. Raises BundleError where one is unusable or repeated."""
    _check_ids(path.name, ids)
    path.write_bytes("".join(f"{value}\n" for value in ids).encode())


def read_ids(path: Path, count: int) -> list[str]:
    """Read a file of `count` ids. Raises BundleError."""
    ids = Ids.load(path, count)
    return [ids.id_of(row) for row in range(1, count + 1)]


def _mapped(path: Path, count: int) -> tuple[mmap.mmap, NDArray[np.int64]]:
    """Map the file and find where its lines begin, the last number being its size."""
    if not path.stat().st_size:
        raise BundleError(f"{path.name}: 0 whole lines, expected {count}")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    characters = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(characters == NEWLINE)
    if len(ends) != count or characters[-1] != NEWLINE:
        raise BundleError(f"{path.name}: {len(ends)} whole lines, expected {count}")
    offsets_N1 = np.concatenate([[0], ends + 1])
    lengths_N = np.diff(offsets_N1) - 1
    plain = bool((characters < 0x7F).all()) and not bool(((characters <= ord(" ")) & (characters != NEWLINE)).any())
    if not plain:
        _check_ids(path.name, _decoded(path.name, content[:]))
    elif not 0 < lengths_N.min() <= lengths_N.max() <= MAX_ID_LENGTH:
        line = np.flatnonzero((lengths_N == 0) | (lengths_N > MAX_ID_LENGTH))[0] + 1
        raise BundleError(f"{path.name}: line {line}: {_UNUSABLE}")
    return content, offsets_N1


def _decoded(name: str, content: bytes) -> list[str]:
    try:
        return content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise BundleError(f"{name}: not UTF-8 at byte {error.start}") from error


def _slots(name: str, content: mmap.mmap, offsets_N1: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Put each row into the first free slot from that of its hash on, with a free one after all, and 1.5 to 3 for each.

    Raises BundleError where an id is there twice.
    """
    hashes_N = _hashes(np.frombuffer(content, dtype=np.uint8), offsets_N1)
    _check_repeats(name, content, offsets_N1, hashes_N)
    bits = int(np.ceil(np.log2(1.5 * len(hashes_N)))) if len(hashes_N) > 1 else 1
    with np.errstate(over="ignore"):
        wanted_N = ((hashes_N * np.uint64(FACTOR)) >> np.uint64(64 - bits)).astype(np.int64)
    order_N = np.argsort(wanted_N, kind="stable")
    numbers_N = np.arange(len(order_N))
    places_N = numbers_N + np.maximum.accumulate(wanted_N[order_N] - numbers_N)
    slots = np.zeros(max(int(places_N[-1]) + 2, 2**bits + 1), dtype=np.int32)
    slots[places_N] = order_N + 1
    return slots, bits


def _hashes(characters: NDArray[np.uint8], offsets_N1: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The bytes of each line, without its end, as one number modulo PRIME."""
    starts_N, lengths_N = offsets_N1[:-1], np.diff(offsets_N1) - 1
    hashes_N = np.zeros(len(starts_N), dtype=np.uint64)
    prime, base = np.uint64(PRIME), np.uint64(256)
    for place in range(int(lengths_N.max())):
        if place < lengths_N.min():
            hashes_N = (hashes_N * base + characters[starts_N + place]) % prime
            continue
        going_on_C = np.flatnonzero(lengths_N > place)
        hashes_N[going_on_C] = (hashes_N[going_on_C] * base + characters[starts_N[going_on_C] + place]) % prime
    return hashes_N


def _check_repeats(name: str, content: mmap.mmap, offsets_N1: NDArray[np.int64], hashes_N: NDArray[np.uint64]) -> None:
    order_N = np.argsort(hashes_N, kind="stable")
    sorted_N = hashes_N[order_N]
    first: dict[bytes, int] = {}
    alike = np.flatnonzero(sorted_N[1:] == sorted_N[:-1])
    for row in np.unique(order_N[np.concatenate([alike, alike + 1])]).tolist():
        line = content[offsets_N1[row] : offsets_N1[row + 1] - 1]
        if first.setdefault(line, row) != row:
            raise BundleError(f"{name}: line {row + 1}: the id of line {first[line] + 1} again")


_UNUSABLE = f"an id is 1..{MAX_ID_LENGTH} visible characters"


def _check_ids(name: str, ids: Sequence[str]) -> None:
    for line, value in enumerate(ids, start=1):
        if not is_valid_id(value):
            raise BundleError(f"{name}: line {line}: {_UNUSABLE}")
    if len(set(ids)) != len(ids):
        first_lines: dict[str, int] = {}
        line = next(line for line, value in enumerate(ids, 1) if first_lines.setdefault(value, line) != line)
        raise BundleError(f"{name}: line {line}: the id of line {first_lines[ids[line - 1]]} again")
