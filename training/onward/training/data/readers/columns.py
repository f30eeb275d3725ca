"""Find the columns of a file that hold the session, user, item, time, position, weight and type of an event."""

from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from onward.training.errors import InputError

GUESSES = {
    "session": ("sessionid", "session", "sessid", "sid", "visitid", "usersession", "sessionidhash", "idvisit"),
    "user": (
        *("userid", "user", "visitorid", "visitor", "customerid", "clientid", "uid", "reviewerid"),
        *("userpseudoid", "useridhash", "email"),
    ),
    "item": (
        *("itemid", "item", "productid", "product", "sku", "articleid", "article", "aid", "movieid", "trackid"),
        *("parentasin", "asin", "videoid", "businessid", "bookid", "appid", "clickarticleid", "productskuhash"),
        *("productviewsku", "itemsku", "lineitemsku", "reference"),
        *("itemids", "itemidlist", "items", "productids", "products"),
    ),
    "time": (
        *("timestampms", "timestamp", "time", "eventtime", "datetime", "eventdate", "date", "createdat", "ts"),
        *("eventtimestamp", "unixreviewtime", "tdat", "dateadded", "clicktimestamp", "servertimestampepochms"),
    ),
    "position": ("position", "pos", "timeframe", "step"),
    "weight": ("weight", "eventweight"),
    "event": ("eventtype", "productaction", "event", "eventname", "actiontype", "action", "behavior", "feedbacktype"),
}
"""Common names of each role's column, the likeliest first, compared without case, `_`, `-` and spaces."""
LIKELIER = {("event", "productaction"): "eventtype", ("time", "eventtimestamp"): "eventdate"}
"""Names that come before a likelier one if a file has both: GA4's dates have no clock, Coveo's types no actions."""


class ColumnNames(BaseModel):
    """The column of each role of an event; None if none was named, or the file has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    position: str | None = None
    weight: str | None = None
    event: str | None = None

    @property
    def roles(self) -> set[str]:
        """The roles that have a column, except those that only some files of a run may have."""
        return {role for role, column in self.model_dump(exclude={"weight", "event"}).items() if column is not None}

    def find(self, path: str, names: Sequence[str]) -> "ColumnNames":
        """Return the columns of a file with columns `names`: those named here, else the likeliest name of each role.

        Of nested fields the last name of the path is compared too. Raises InputError if the file at `path` lacks a
        column that is named here.
        """
        return ColumnNames(**{role: self._find(path, role, names) for role in GUESSES})

    def list_to_unfold(self, fields: Collection[str], lists: Mapping[str, Collection[str]]) -> str | None:
        """Return the list of objects that holds the items of a row, None if its own fields hold the item.

        `fields` are the other fields of the row, `lists` the fields of the objects in each list.
        """
        if self.item is not None:
            return next((name for name in lists if self.item.startswith(f"{name}.")), None)
        if _likeliest("item", list(fields)) is not None:
            return None
        return next((name for name, inner in lists.items() if _likeliest("item", list(inner)) is not None), None)

    def _find(self, path: str, role: str, names: Sequence[str]) -> str | None:
        requested: str | None = getattr(self, role)
        if requested is None:
            return _likeliest(role, names)
        if requested not in names:
            raise InputError(f"{path}: there is no column {requested!r}; {describe_columns(names, requested)}")
        return requested


def describe_columns(names: Sequence[str], requested: str = "") -> str:
    """List the columns of a file, for an error message; of `requested`, an object, the fields."""
    within = [name for name in names if requested and name.startswith(f"{requested}.")]
    if within:
        return f"it holds objects; name a path: {', '.join(within)}"
    return f"the columns are {', '.join(names)}"


def suggested_path(role: str, names: Sequence[str]) -> str | None:
    """Return a field of an object that is named like the role, such as `item.id`; None if there is none."""
    return next((name for name in names if "." in name and plain_name(name.partition(".")[0]) in GUESSES[role]), None)


def plain_name(name: str) -> str:
    """Return a name as names are compared: without case, `_`, `-` and spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _likeliest(role: str, names: Sequence[str]) -> str | None:
    """Return the likeliest name of a role; of two nested fields of one name neither is likely."""
    by_plain_name = {plain_name(name): name for name in reversed(names)}
    found = [guess for guess in GUESSES[role] if guess in by_plain_name]
    if found:
        better = (guess for guess in found if LIKELIER.get((role, guess)) == found[0])
        return by_plain_name[next(better, found[0])]
    last = [plain_name(name.rpartition(".")[2]) for name in names]
    unique = {plain: name for plain, name in zip(last, names, strict=True) if last.count(plain) == 1}
    return next((unique[guess] for guess in GUESSES[role] if guess in unique), None)
