"""User ids and rows, for encoders that know users. Row 0 stands for every user that training did not see."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from onward.bundle.files.ids import read_ids, write_ids
from onward.bundle.files.manifest import USERS

UNKNOWN_USER = 0


class Users:
    """The users of a bundle; may be empty. Ids are compared byte for byte, without normalization."""

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self._rows = {user_id: row for row, user_id in enumerate(ids, start=1)}

    @classmethod
    def load(cls, folder: Path, users: int) -> Self:
        """Read a bundle's user ids; `users` is how many its manifest states. Raises BundleError."""
        return cls(read_ids(folder / USERS, users) if users else ())

    @staticmethod
    def write(folder: Path, ids: Sequence[str]) -> None:
        """Write the ids of rows 1..U; no file if there are none. Raises BundleError for an invalid or repeated id."""
        if ids:
            write_ids(folder / USERS, ids)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, user_id: str) -> int:
        """Return the user's row, 0 for an unknown user."""
        return self._rows.get(user_id, UNKNOWN_USER)
