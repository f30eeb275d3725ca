"""The items as stored in a bundle's files. Dimension key: N items in rows 1..N; row 0 pads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from onward.bundle.files.arrays import check_booleans, check_finite, open_array
from onward.bundle.files.attribute_lines import AttributeLines
from onward.bundle.files.attributes import Column, Columns, Kind, Schema
from onward.bundle.files.columns import read_columns, write_columns
from onward.bundle.files.ids import Ids, write_ids
from onward.bundle.files.manifest import AVAILABLE, IDS, POPULARITY, BundleError

CACHED_TEXTS = 65_536


class ItemText(NamedTuple):
    """An item of an answer as JSON with a leading comma, split where its score is inserted."""

    start: bytes
    end: bytes

    @classmethod
    def of(cls, item_id: str, attributes: bytes) -> Self:
        """Build the text from an id and the JSON of the attributes."""
        end = b"}" if attributes == b"{}" else b',"attributes":%b}' % attributes
        return cls(b',{"id":%b,"score":' % to_json(item_id), end)


class StoredItems:
    """Ids, popularity, availability and attributes. Immutable and thread-safe."""

    def __init__(
        self,
        ids: Ids,
        *,
        popularity_N1: NDArray[np.float32],
        available_N1: NDArray[np.bool_],
        lines: AttributeLines,
        schema: Schema,
        columns: Mapping[str, Column],
    ) -> None:
        self.ids = ids
        self.popularity_N1 = popularity_N1
        self.available_N1 = available_N1
        self.most_popular_rows: NDArray[np.int64] = np.argsort(-popularity_N1[1:], kind="stable") + 1
        self._lines = lines
        self._stored_schema = schema
        self._stored_columns = columns
        self.cached_texts: dict[str, ItemText] = {}
        """JSON texts of items, by id."""

    @classmethod
    def load(cls, folder: Path, items: int, schema: Schema) -> "StoredItems":
        """Read `items` items from a bundle's folder; an empty schema is inferred on first use. Raises BundleError."""
        return cls(
            Ids.load(folder / IDS, items),
            popularity_N1=_checked_popularity(open_array(folder / POPULARITY, np.float32, (items + 1,))),
            available_N1=_checked_availability(open_array(folder / AVAILABLE, np.bool_, (items + 1,))),
            lines=AttributeLines.load(folder, items),
            schema=schema,
            columns=read_columns(folder, schema, items + 1),
        )

    @staticmethod
    def write(
        folder: Path,
        ids: Sequence[str],
        popularity: NDArray[Any],
        attributes: Iterable[Mapping[str, Any]],
        available: NDArray[np.bool_],
    ) -> dict[str, Kind]:
        """Write the files that `load` reads and return the schema; see `Catalog.write`."""
        for name, array in ((POPULARITY, popularity), (AVAILABLE, available)):
            if array.shape != (len(ids) + 1,):
                raise BundleError(f"{name}: shape {array.shape} for {len(ids)} items, expected {(len(ids) + 1,)}")
        popularity_N1, available_N1 = popularity.astype(np.float32), available.astype(np.bool_)
        popularity_N1[0], available_N1[0] = 0, False
        np.save(folder / POPULARITY, _checked_popularity(popularity_N1))
        np.save(folder / AVAILABLE, available_N1)
        write_ids(folder / IDS, ids)
        AttributeLines.write(folder, attributes, len(ids))
        lines = AttributeLines.load(folder, len(ids))
        schema = lines.schema()
        write_columns(folder, Columns(schema, len(ids) + 1, lines.read_all))
        return schema

    @cached_property
    def popularity_sum(self) -> float:
        """The popularity of all items together."""
        return float(self.popularity_N1.sum(dtype=np.float64))

    @cached_property
    def schema(self) -> Schema:
        """The kind of every attribute, from the manifest or else inferred from all items."""
        return self._stored_schema or self._lines.schema()

    @cached_property
    def columns(self) -> Columns:
        """The attribute columns that filters compare; built on first use if the files do not have them."""
        return Columns(self.schema, len(self.ids) + 1, self._lines.read_all, dict(self._stored_columns))

    def attributes(self, row: int) -> Mapping[str, Any]:
        """Return the attributes of a row from 1..N."""
        return self._lines.read(row)

    def read(self, rows: Iterable[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the id and the attributes of rows from 1..N, without caching them."""
        for row in rows:
            yield self.ids.read(row), from_json(self._lines.text(row))

    def text(self, item_id: str) -> ItemText:
        """Return the JSON text of an item, as answers show it, and cache it."""
        text = self.cached_texts.get(item_id)
        if text is None:
            row = self.ids.row(item_id)
            text = ItemText.of(item_id, b"{}" if row is None else self._lines.text(row))
            if len(self.cached_texts) >= CACHED_TEXTS:
                self.cached_texts = {}
            self.cached_texts[item_id] = text
        return text


def _checked_popularity(popularity_N1: NDArray[np.float32]) -> NDArray[np.float32]:
    check_finite(POPULARITY, popularity_N1)
    if (popularity_N1 < 0).any():
        raise BundleError(f"{POPULARITY}: holds a negative number")
    return popularity_N1


def _checked_availability(available_N1: NDArray[np.bool_]) -> NDArray[np.bool_]:
    check_booleans(AVAILABLE, available_N1)
    if available_N1[0]:
        raise BundleError(f"{AVAILABLE}: row 0, the padding, is marked available")
    return available_N1
