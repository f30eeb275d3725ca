"""ItemSearch: lists the items of the live bundle, all or those that a text finds, with the changes of the live catalog.

The index of the exported items is built in a thread when a text is first searched for: without searches it takes
neither time nor memory. Items whose texts have changed since, and new ones, have an index of their own, which follows
the changes.
"""

import asyncio
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from functools import cached_property
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from onward.bundle import Bundle, Catalog
from onward.service.errors import InvalidRequest
from onward.service.live.bundle import LiveBundle
from onward.service.live.text_index import IndexedItem, TextIndex, text_of

MAX_INDEX_WAIT_S = 1.0
"""How long a search waits for an index that is being built; after it, only the item of exactly this id is found."""
DIGEST_DIGITS = 12
NOTHING = -1
"""The place before the item whose id is the query, which is listed at place 0."""
STALE = "This cursor is of another bundle, or of no list: list again from the start."


class Cursor(NamedTuple):
    """Where the next page of a list begins: after a place among texts, or after an id among ids."""

    bundle: str
    place: int = NOTHING
    item_id: str | None = None
    """The last id, if ids are listed that begin as the query says."""

    @classmethod
    def begin(cls, bundle: Bundle, text: str | None) -> Self:
        """Return the first cursor of a bundle, or the one whose `text` is given. Raises InvalidRequest."""
        digest = bundle.digest[:DIGEST_DIGITS]
        if text is None:
            return cls(digest)
        try:
            cursor = cls(*_FIELDS.validate_json(urlsafe_b64decode(text.encode())))
        except (ValueError, ValidationError) as error:
            raise InvalidRequest(STALE) from error
        if cursor.bundle != digest:
            raise InvalidRequest(STALE)
        return cursor

    @property
    def text(self) -> str:
        """The cursor as callers hold it."""
        return urlsafe_b64encode(_FIELDS.dump_json((self.bundle, self.place, self.item_id))).decode()


_FIELDS: TypeAdapter[tuple[str, int, str | None]] = TypeAdapter(tuple[str, int, str | None])


class FoundItems(NamedTuple):
    """A page of items of one bundle."""

    bundle: Bundle
    item_ids: list[str]
    next: str | None
    """The cursor of the next page, None if this is the last one."""
    is_complete: bool
    """False if the index is still being built."""


class ItemSearch:
    """Lists and searches the items of the live bundle: the most popular first, new items last."""

    def __init__(self, live: LiveBundle) -> None:
        self._live = live
        self._building: asyncio.Task[_BundleIndex] | None = None
        self._digest = ""

    async def find(self, query: str, *, changed: bool, cursor: str | None, limit: int) -> FoundItems:
        """Return the items that a text finds, as they are now; deleted items are never found.

        First comes the item whose id is the query, then items with its words in their texts, or if there are none,
        those whose ids begin with it. An empty query finds all items.

        Args:
            query: the words, or an id or its beginning.
            changed: whether only items that were changed since the export are listed.
            cursor: that of the page before; None for the first page.
            limit: the most items of a page.

        Raises NotReady, InvalidRequest.
        """
        bundle, text = self._live.bundle, query.strip()
        start = Cursor.begin(bundle, cursor)
        if not text:
            return await asyncio.to_thread(_listed, bundle, start, changed=changed, limit=limit)
        index = await self._index(bundle)
        if index is None:
            found = [] if cursor is not None or not _is_listed(bundle.catalog, text, changed=changed) else [text]
            return FoundItems(bundle, found, None, is_complete=False)
        return await asyncio.to_thread(index.find, bundle, text, start, changed=changed, limit=limit)

    async def close(self) -> None:
        """Wait for an index that is being built; a thread cannot be stopped."""
        if self._building is not None:
            await asyncio.wait([self._building])

    async def _index(self, bundle: Bundle) -> "_BundleIndex | None":
        """Return the index of a bundle, None if it takes longer to build than a search waits."""
        if self._building is None or self._digest != bundle.digest or _has_failed(self._building):
            self._digest = bundle.digest
            self._building = asyncio.create_task(asyncio.to_thread(_BundleIndex, bundle))
        try:
            return await asyncio.wait_for(asyncio.shield(self._building), MAX_INDEX_WAIT_S)
        except TimeoutError:
            return None


class _BundleIndex:
    """The indexes of one bundle: of its exported items, and of those that were changed since."""

    def __init__(self, bundle: Bundle) -> None:
        exported = (bundle.exported or bundle).catalog
        self._lock = threading.Lock()
        self._rows = exported.most_popular_rows
        self._exported = TextIndex(_exported_items(exported))
        self._changed = TextIndex(())
        self._texts: dict[str, IndexedItem] = {}
        """What `_changed` holds, by id: new items, and those whose text is not the exported one."""
        self._places: set[int] = set()
        """The places of these."""
        self._bundle: Bundle | None = None
        """The newest bundle whose changes are indexed."""
        self._follow(bundle)

    def find(self, bundle: Bundle, query: str, start: Cursor, *, changed: bool, limit: int) -> FoundItems:
        """Return a page of what a text finds, in this bundle or one with later changes."""
        with self._lock:
            bundle = self._follow(bundle)
            found = self._found(bundle.catalog, query, start, changed=changed)
            page = list(islice(found, limit + 1))
        item_ids = [item_id for item_id, _ in page[:limit]]
        is_last = len(page) <= limit
        return FoundItems(bundle, item_ids, None if is_last else page[limit - 1][1].text, is_complete=True)

    def _found(self, catalog: Catalog, query: str, start: Cursor, *, changed: bool) -> Iterator[tuple[str, Cursor]]:
        """Yield items, each with the cursor of what follows it."""
        if start.place == NOTHING and _is_listed(catalog, query, changed=changed):
            yield query, start._replace(place=0)
        place = 0
        if start.item_id is None:
            for place in self._places_of(catalog, query, max(0, start.place), changed=changed):
                item_id = self._id_at(catalog, place)
                if item_id != query and not catalog.is_deleted(item_id):
                    yield item_id, start._replace(place=place)
        if max(place, start.place) <= 0:
            for item_id in self._ids(catalog, query, start.item_id or "", changed=changed):
                if item_id != query and not catalog.is_deleted(item_id):
                    yield item_id, start._replace(place=0, item_id=item_id)

    def _places_of(self, catalog: Catalog, query: str, after: int, *, changed: bool) -> Iterator[int]:
        """Yield the places of items with the words of a query: changed items by their present texts."""
        exported = (place for place in self._exported.with_words(query, after=after) if place not in self._places)
        chosen = (place for place in exported if not changed or catalog.is_changed(self._id_at(catalog, place)))
        return merge(chosen, self._changed.with_words(query, after=after))

    def _ids(self, catalog: Catalog, prefix: str, after: str, *, changed: bool) -> Iterator[str]:
        """Yield the ids that begin with a prefix."""
        exported = (
            item_id for item_id in self._exported.with_id_prefix(prefix, after=after) if item_id not in self._texts
        )
        chosen = (item_id for item_id in exported if not changed or catalog.is_changed(item_id))
        return merge(chosen, self._changed.with_id_prefix(prefix, after=after))

    def _id_at(self, catalog: Catalog, place: int) -> str:
        return catalog.item_id(int(self._rows[place - 1]) if place <= len(self._rows) else place)

    def _follow(self, bundle: Bundle) -> Bundle:
        """Index what has changed; return the bundle to search: a later one if that is indexed already."""
        last, catalog = self._bundle, bundle.catalog
        if last is not None and last.catalog.rows_since(catalog.version) is not None:
            return last
        rows_T = None if last is None else catalog.rows_since(last.catalog.version)
        if rows_T is None:
            rows_T = catalog.changed_rows
            rows_T = rows_T[rows_T <= catalog.items]
            gone = list(self._texts.values())
        else:
            touched = {catalog.item_id(row) for row in rows_T.tolist()}
            gone = [item for item in self._texts.values() if item.item_id in touched or item.place > catalog.items]
        new = (self._new(catalog, change.item_id) for change in catalog.new_items)
        edited = (self._edited(catalog, row) for row in rows_T.tolist())
        self._replace(gone, [item for item in (*edited, *new) if item is not None])
        self._bundle = bundle
        return bundle

    def _replace(self, gone: Iterable[IndexedItem], items: Iterable[IndexedItem]) -> None:
        before, after = set(gone), set(items)
        self._changed.replace(before - after, after - before)
        for item in before:
            del self._texts[item.item_id]
        self._texts |= {item.item_id: item for item in after}
        self._places = {item.place for item in self._texts.values()}

    def _edited(self, catalog: Catalog, row: int) -> IndexedItem | None:
        """Return an item of the files if its text is not the exported one."""
        text = text_of(catalog.attributes(row))
        ((item_id, exported),) = catalog.exported_items([row])
        return None if text == text_of(exported) else IndexedItem(int(self._places_N1[row]), item_id, text)

    def _new(self, catalog: Catalog, item_id: str) -> IndexedItem | None:
        row = catalog.row(item_id)
        return None if row is None else IndexedItem(row, item_id, text_of(catalog.attributes(row)))

    @cached_property
    def _places_N1(self) -> NDArray[np.int32]:
        """The place of each exported row in the order of popularity."""
        places_N1 = np.zeros(len(self._rows) + 1, dtype=np.int32)
        places_N1[self._rows] = np.arange(1, len(self._rows) + 1)
        return places_N1


def _exported_items(catalog: Catalog) -> Iterator[IndexedItem]:
    """Yield the exported items, most popular first."""
    items = catalog.exported_items(map(int, catalog.most_popular_rows))
    for place, (item_id, attributes) in enumerate(items, start=1):
        yield IndexedItem(place, item_id, text_of(attributes))


def _listed(bundle: Bundle, start: Cursor, *, changed: bool, limit: int) -> FoundItems:
    """Return a page of all items."""
    catalog = bundle.catalog
    page = list(islice(_all_items(catalog, max(0, start.place), changed=changed), limit + 1))
    item_ids = [item_id for item_id, _ in page[:limit]]
    following = start._replace(place=page[limit - 1][1]).text if len(page) > limit else None
    return FoundItems(bundle, item_ids, following, is_complete=True)


def list_unseen(bundle: Bundle, shown_N1: NDArray[np.bool_], start: Cursor, limit: int) -> tuple[FoundItems, int]:
    """Return a page of the exported items that may be shown but were not, and the number of all such items."""
    catalog = bundle.catalog
    unseen_N1 = catalog.eligible().rows_R1[: catalog.items + 1] & ~shown_N1
    places = np.flatnonzero(unseen_N1[catalog.most_popular_rows]) + 1
    page = places[np.searchsorted(places, max(0, start.place), side="right") :][: limit + 1]
    item_ids = catalog.item_ids(catalog.most_popular_rows[page[:limit] - 1].tolist())
    following = start._replace(place=int(page[limit - 1])).text if len(page) > limit else None
    return FoundItems(bundle, item_ids, following, is_complete=True), len(places)


def _all_items(catalog: Catalog, after: int, *, changed: bool) -> Iterator[tuple[str, int]]:
    """Yield all items that are not deleted, or those that were changed, with their places."""
    rows, changed_rows = catalog.most_popular_rows, catalog.changed_rows
    new = changed_rows[changed_rows > catalog.items]
    exported: Iterable[int] = range(after + 1, len(rows) + 1)
    if changed:
        is_changed_N1 = np.zeros(len(rows) + 1, dtype=np.bool_)
        is_changed_N1[changed_rows[: len(changed_rows) - len(new)]] = True
        exported = after + 1 + np.flatnonzero(is_changed_N1[rows[after:]])
    places = (int(place) for place in chain(exported, new[new > after]))
    for place in places:
        item_id = catalog.item_id(int(rows[place - 1]) if place <= len(rows) else place)
        if not catalog.is_deleted(item_id):
            yield item_id, place


def _is_listed(catalog: Catalog, item_id: str, *, changed: bool) -> bool:
    return item_id in catalog and not catalog.is_deleted(item_id) and not (changed and not catalog.is_changed(item_id))


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
