"""Which column of a file says who, what and when."""

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
"""Names of each role, the likeliest first, compared without case, `_`, `-` and spaces."""


class ColumnNames(BaseModel):
    """A column for each role of an event; None where nobody named one or a file has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    position: str | None = None
    weight: str | None = None

    @property
    def roles(self) -> set[str]:
        """The roles that have a column, but for the weight: files with and without one go together."""
        return {role for role, column in self.model_dump(exclude={"weight"}).items() if column is not None}

    def find(self, path: str, names: Sequence[str]) -> "ColumnNames":
        """The column of `path` for every role: the one asked for here, else the likeliest name. Raises InputError."""
        return ColumnNames(**{role: self._find(path, role, names) for role in GUESSES})

    def _find(self, path: str, role: str, names: Sequence[str]) -> str | None:
        asked: str | None = getattr(self, role)
        if asked is not None and asked not in names:
            raise InputError(f"{path}: there is no column {asked!r}; {found(names)}")
        by_plain_name = {_plain(name): name for name in reversed(names)}
        return asked or next((by_plain_name[guess] for guess in GUESSES[role] if guess in by_plain_name), None)


def found(names: Sequence[str]) -> str:
    """The columns a file has, for an error message."""
    return f"the columns are {', '.join(names)}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
