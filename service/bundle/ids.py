"""Files of ids, one a line: line n is the id of row n."""

from collections.abc import Sequence
from pathlib import Path

from service.bundle.manifest import BundleError, is_valid_id


def write_ids(path: Path, ids: Sequence[str]) -> None:
    """Write a file of ids. Raises BundleError where one is unusable or repeated."""
    _check_ids(path.name, ids)
    path.write_bytes("".join(f"{value}\n" for value in ids).encode())


def read_ids(path: Path, count: int) -> list[str]:
    """Read a file of `count` ids. Raises BundleError."""
    try:
        ids = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path.name}: not UTF-8 at byte {error.start}") from error
    if ids.pop() != "" or len(ids) != count:
        raise BundleError(f"{path.name}: {len(ids)} whole lines, expected {count}")
    _check_ids(path.name, ids)
    return ids


def _check_ids(name: str, ids: Sequence[str]) -> None:
    for line, value in enumerate(ids, start=1):
        if not is_valid_id(value):
            raise BundleError(f"{name}: line {line}: an id is 1..128 visible characters")
    if len(set(ids)) != len(ids):
        first_lines: dict[str, int] = {}
        line = next(line for line, value in enumerate(ids, 1) if first_lines.setdefault(value, line) != line)
        raise BundleError(f"{name}: line {line}: the id of line {first_lines[ids[line - 1]]} again")
