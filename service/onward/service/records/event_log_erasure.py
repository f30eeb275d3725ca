"""Erase a user from the files of an event log."""

import json
import os
import stat
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from onward.service.records.event_log import Pseudonyms, last_moment

MARGIN = timedelta(seconds=30)
"""How long after the hour the file of that hour may still be open."""


class Erasure(NamedTuple):
    """What was erased from an event log."""

    lines: int
    open_files: list[str]
    """Names of the files that a service may be writing, which were left as they are."""


def erase_user(folder: Path, user_id: str, now: datetime | None, *, key: str | None = None) -> Erasure:
    """Remove a user's answers, and all answers and events of the sessions that they were made for.

    Args:
        folder: an event log.
        user_id: the user.
        key: the secret of the log's pseudonyms, if it has any; lines with the user's own id are found too.
        now: the present time, if a service may be writing to the folder: its newest files are then left as they are.

    Raises OSError.
    """
    names = sorted(path.name for path in folder.iterdir() if last_moment(path.name) is not None)
    users = users_of(user_id, key)
    sessions = sessions_of(users, [folder / name for name in names if name.startswith("answers")])
    open_files = [name for name in names if now is not None and _may_be_open(name, now)]
    closed = [folder / name for name in names if name not in open_files]
    return Erasure(sum(remove_lines(path, users, sessions) for path in closed), open_files)


def users_of(user_id: str, key: str | None) -> set[str]:
    """Return the names that a user has in a log: the id, and with a key the pseudonym."""
    return {user_id} if key is None else {user_id, Pseudonyms(key)(user_id)}


def sessions_of(users: Collection[str], answers: Sequence[Path]) -> set[Any]:
    """Return the sessions that a user's answers were made for."""
    sessions = set()
    for path in answers:
        with path.open("rb") as file:
            for line in map(_parse, file):
                if line.get("user_id") in users and "session_id" in line:
                    sessions.add(line["session_id"])
    return sessions


def remove_lines(path: Path, users: Collection[str], sessions: Collection[Any]) -> int:
    """Write a file anew without the lines of users and sessions, in one step; return how many were removed."""
    new, removed = path.with_name(f".{path.name}.new"), 0

    def is_unwanted(line: dict[str, Any]) -> bool:
        return line.get("user_id") in users or line.get("session_id") in sessions

    try:
        with path.open("rb") as file, new.open("wb") as kept:
            os.fchmod(kept.fileno(), stat.S_IMODE(path.stat().st_mode))
            for line in file:
                if is_unwanted(_parse(line)):
                    removed += 1
                else:
                    kept.write(line)
            kept.flush()
            os.fsync(kept.fileno())
        if removed:
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return removed


def _may_be_open(name: str, now: datetime) -> bool:
    """Return whether a service may be writing a file: it closes each after the hour in which it was made."""
    end = last_moment(name)
    return end is not None and now < end + MARGIN


def _parse(line: bytes) -> dict[str, Any]:
    """Parse a line; one that is not an object, such as the last one of a service that was killed, has no fields."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
