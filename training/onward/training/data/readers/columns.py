"""Find the columns of a file that hold the session, user, item, time, position and weight of an event."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from onward.training.errors import InputError

GUESSES = {
    "session": ("sessionid", "session", "sessid", "sid", "visitid"),
    "user": ("userid", "user", "visitorid", "visitor", "customerid", "clientid", "uid"),
    "item": ("itemid", "item", "productid", "product", "sku", "articleid", "article", "aid", "movieid", "trackid"),
    "time": ("timestampms", "timestamp", "time", "eventtime", "datetime", "eventdate", "date", "createdat", "ts"),
    "position": ("position", "pos", "timeframe", "step"),
    "weight": ("weight", "eventweight"),
}
"""Common names of each role's column, the likeliest first, compared without case, `_`, `-` and spaces."""


class ColumnNames(BaseModel):
    """The column of each role of an event; None if none was named, or the file has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    position: str | None = None
    weight: str | None = None

    @property
    def roles(self) -> set[str]:
        """The roles that have a column, except the weight, which only some files of a run may have."""
        return {role for role, column in self.model_dump(exclude={"weight"}).items() if column is not None}

    def find(self, path: str, names: Sequence[str]) -> "ColumnNames":
        """Return the columns of a file with columns `names`: those named here, else the likeliest name of each role.

        Raises InputError if the file at `path` lacks a column that is named here.
        """
        return ColumnNames(**{role: self._find(path, role, names) for role in GUESSES})

    def _find(self, path: str, role: str, names: Sequence[str]) -> str | None:
        requested: str | None = getattr(self, role)
        if requested is not None and requested not in names:
            raise InputError(f"{path}: there is no column {requested!r}; {describe_columns(names)}")
        by_plain_name = {_plain(name): name for name in reversed(names)}
        return requested or next((by_plain_name[guess] for guess in GUESSES[role] if guess in by_plain_name), None)


def describe_columns(names: Sequence[str]) -> str:
    """List the columns of a file, for an error message."""
    return f"the columns are {', '.join(names)}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
