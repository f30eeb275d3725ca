"""Catalogs of single letters, as those of the bundles that answers name, and a way to find them."""

from collections.abc import Sequence

import numpy as np

from onward.service.live.bundle_ids import KnownBundle

LETTERS = "abcdefghijklmnopqrstuvw"
DIGEST = "5d13bce372cd0407" + "0" * 48
OTHER_DIGEST = "aabbccddeeff0011" + "0" * 48


class LetterCatalog:
    """Row n is the n-th letter; `new` are items that the bundle's files do not have."""

    def __init__(self, letters: str = LETTERS, new: Sequence[str] = ()) -> None:
        self.items = len(letters)
        self._ids = [*letters, *new]
        self.popularity_N1 = np.arange(self.items, -1, -1, dtype=np.float32)
        self.most_popular_rows = np.arange(1, self.items + 1)

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        return [self._ids.index(item_id) + 1 if item_id in self._ids else None for item_id in item_ids]

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        return [self._ids[: self.items][row - 1] for row in rows]


CATALOG = LetterCatalog()


class LetterBundles:
    """Two bundles, of which the second numbers its items the other way round."""

    def __init__(self) -> None:
        self.catalogs = {DIGEST: CATALOG, OTHER_DIGEST: LetterCatalog(LETTERS[::-1])}

    async def find(self, digest: str) -> KnownBundle | None:
        for known, catalog in self.catalogs.items():
            if known.startswith(digest):
                return KnownBundle(known, catalog.item_ids)
        return None
