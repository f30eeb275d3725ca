"""TextIndex: which items have texts with words that begin as given, and which ids begin as given.

By the full-text search of SQLite (FTS5), in a temporary database that is deleted with the connection. See decision 43.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MAX_TEXT = 100
"""Characters of an attribute's text that are indexed."""
MAX_TEXTS = 10
"""Texts of an item that are indexed."""
CACHE_KIB = 8_192
FETCHED = 256
_WORD = re.compile(r"\w+")
_SCHEMA = (
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA journal_mode = OFF",
    "CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE VIRTUAL TABLE texts USING fts5(text, content = '', detail = none, columnsize = 0, prefix = '1 2', "
    "tokenize = 'unicode61 remove_diacritics 2')",
)


class IndexedItem(NamedTuple):
    """An item and the text to find it by."""

    place: int
    """Unique; results are ordered by it."""
    item_id: str
    text: str


class TextIndex:
    """An index of texts and ids. Not thread-safe: use it in one thread at a time."""

    def __init__(self, items: Iterable[IndexedItem]) -> None:
        """Index items in ascending order of their places."""
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in _SCHEMA:
            self._database.execute(statement)
        self._database.execute("BEGIN")
        # Both tables are filled from one pass over the items; each step of SQLite lets other threads run.
        for item in items:
            self._database.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (item.place, item.text))
            self._database.execute("INSERT INTO ids VALUES (?)", (item.item_id,))
        self._database.execute("COMMIT")

    def replace(self, removed: Iterable[IndexedItem], added: Iterable[IndexedItem]) -> None:
        """Remove items, as they were added, and add others."""
        self._database.execute("BEGIN")
        for item in removed:
            statement = "INSERT INTO texts (texts, rowid, text) VALUES ('delete', ?, ?)"
            self._database.execute(statement, (item.place, item.text))
            self._database.execute("DELETE FROM ids WHERE id = ?", (item.item_id,))
        for item in added:
            self._database.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (item.place, item.text))
            self._database.execute("INSERT INTO ids VALUES (?)", (item.item_id,))
        self._database.execute("COMMIT")

    def with_words(self, query: str, *, after: int = 0) -> Iterator[int]:
        """Yield the places after `after` of items whose texts have the words of the query, the last as a beginning.

        Case and diacritics are ignored. A query without a word finds nothing.
        """
        words = _WORD.findall(query)
        if words:
            match = " ".join(f'"{word}"' for word in words) + "*"
            statement = "SELECT rowid FROM texts WHERE texts MATCH ? AND rowid > ? ORDER BY rowid"
            for (place,) in self._read(statement, match, after):
                yield place

    def with_id_prefix(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the ids after `after` that begin with a prefix, in ascending order."""
        for (item_id,) in self._read("SELECT id FROM ids WHERE id >= ? AND id > ? ORDER BY id", prefix, after):
            if not item_id.startswith(prefix):
                return
            yield item_id

    @property
    def size(self) -> int:
        """The size of the database in bytes, of which `CACHE_KIB` at most are in memory, the rest in a file."""
        (size,) = self._database.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(size[0])

    def close(self) -> None:
        """Delete the database."""
        self._database.close()

    def _read(self, statement: str, *arguments: str | int) -> Iterator[tuple[Any, ...]]:
        found = self._database.execute(statement, arguments)
        while rows := found.fetchmany(FETCHED):
            yield from rows


def text_of(attributes: Mapping[str, Any]) -> str:
    """Return the text that an item is found by: its attributes that are text."""
    texts: list[str] = []
    for value in attributes.values():
        if isinstance(value, str):
            texts.append(value[:MAX_TEXT])
        elif isinstance(value, list):
            texts += [text[:MAX_TEXT] for text in value if isinstance(text, str)]
    return " ".join(texts[:MAX_TEXTS])
