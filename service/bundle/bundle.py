"""A bundle as one thing: everything that one answer needs, loaded whole and checked before it serves."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle.arrays import open_array
from service.bundle.catalog import Catalog
from service.bundle.encoder import Encoder
from service.bundle.index import Candidates, ItemIndex
from service.bundle.manifest import (
    ENCODER,
    INDEX,
    MANIFEST,
    USERS,
    VECTORS,
    BundleError,
    Manifest,
    Probe,
    ScoredItem,
    check_files,
    read_manifest,
)
from service.bundle.users import UNKNOWN, Users

Source = Literal["encoder", "popular", "similar"]
User = Literal["known", "unknown"]

PROBE_TOLERANCE = 1e-3  # of the largest number compared: what another CPU's rounding may change
FINITE_CHECK_ROWS = 65_536
SIMILAR_POOL = 200


class UnknownItemError(LookupError):
    """The catalog has no item of this id."""


class RetrievedItem(NamedTuple):
    """An item of an answer: its score, what brought it, and for an encoder's item the number of the interest."""

    item_id: str
    score: float
    source: Source
    interest: int | None = None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Items, best first, and what of the request the bundle does not know."""

    items: tuple[RetrievedItem, ...]
    unknown_item_ids: tuple[str, ...] = ()
    user: User | None = None
    """Whether the encoder knows the user; None where none was named or the encoder takes sessions alone."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Encoder, index, vectors, catalog and users of one export. Immutable; several threads may use it at once."""

    digest: str
    manifest: Manifest
    catalog: Catalog
    users: Users
    encoder: Encoder
    index: ItemIndex
    vectors_N1D: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> "Bundle":
        """Load the bundle in `folder`, which may be a link to it.

        With `verify`, every file's SHA-256 is checked before it is parsed and the probes are run at the end; without,
        only the manifest, sizes, types and shapes are. Raises BundleError, which names the file and the reason.
        """
        folder = folder.resolve()
        manifest, digest = read_manifest(folder)
        check_files(folder, manifest, hashes=verify)
        vectors_N1D = open_array(folder / VECTORS, np.float32, (manifest.items + 1, manifest.dimension))
        if verify:
            _check_vectors(vectors_N1D)
        catalog = Catalog.load(folder, manifest.items)
        bundle = cls(
            digest=digest,
            manifest=manifest,
            catalog=catalog,
            users=Users.load(folder, manifest.users),
            encoder=Encoder.load(
                folder / ENCODER,
                items=manifest.items,
                dimension=manifest.dimension,
                interests=manifest.interests,
                max_length=manifest.max_length,
                users=manifest.users,
            ),
            index=ItemIndex.load(
                folder / INDEX, manifest.index, vectors_N1D=vectors_N1D, available_N1=catalog.available_N1
            ),
            vectors_N1D=vectors_N1D,
        )
        if verify:
            bundle.check_probes()
        return bundle

    def retrieve(
        self,
        item_ids: Sequence[str],
        k: int,
        *,
        user_id: str | None = None,
        exclude: Collection[str] = (),
        exclude_seen: bool | None = None,
        exact: bool = False,
    ) -> Retrieval:
        """Return the k items most likely to follow a session, or popular items where nothing of it is known.

        Args:
            item_ids: the session, oldest first; ids that the catalog does not have are reported and left out.
            k: the number of items wanted; fewer come only where fewer are eligible.
            user_id: whose session it is. A user whom the encoder knows is answered without any known item too; one
                whom it does not know is answered by the session alone.
            exclude: ids not to return.
            exclude_seen: leave out the session's own items; None means the bundle's default.
            exact: compare with every vector instead of asking the index.
        """
        rows, unknown_item_ids = self._rows(item_ids)
        user_row, user = self._user(user_id)
        if not rows and user_row == UNKNOWN:
            return Retrieval(self.popular(k, exclude=exclude).items, unknown_item_ids, user)
        hidden_rows = set(self._known_rows(exclude))
        if self.manifest.defaults.exclude_seen if exclude_seen is None else exclude_seen:
            hidden_rows.update(rows)
        candidates = self.index.search(self.encoder.encode(rows, user_row), k, hidden_rows=hidden_rows, exact=exact)
        return Retrieval(tuple(self._items(candidates)), unknown_item_ids, user)

    def similar(self, item_id: str, k: int, *, exclude: Collection[str] = (), exact: bool = False) -> Retrieval:
        """Return the k items nearest to an item, by the cosine of their vectors as the score.

        The cosine orders the items with the largest inner products, ten for each that is wanted and at least
        `SIMILAR_POOL`; by itself the inner product would favour popular items, whose vectors are long.
        Raises UnknownItemError.
        """
        row = self._row(item_id)
        hidden_rows = {row, *self._known_rows(exclude)}
        vector_1D, pool = self.vectors_N1D[row : row + 1], max(10 * k, SIMILAR_POOL)
        rows = self.index.search(vector_1D, pool, hidden_rows=hidden_rows, exact=exact).rows
        nearby_CD = self.vectors_N1D[rows]
        lengths_C = np.linalg.norm(nearby_CD, axis=1) * np.linalg.norm(vector_1D)
        cosines_C = (nearby_CD @ vector_1D[0]) / np.maximum(lengths_C, np.finfo(np.float32).tiny)
        best = np.argsort(-cosines_C, kind="stable")[:k]
        found = zip(rows[best].tolist(), cosines_C[best].tolist(), strict=True)
        return Retrieval(tuple(RetrievedItem(self.catalog.item_id(row), cosine, "similar") for row, cosine in found))

    def popular(self, k: int, *, exclude: Collection[str] = ()) -> Retrieval:
        """Return the k most popular items, their popularity as the score."""
        hidden_rows = set(self._known_rows(exclude))
        visible = (row for row in self.catalog.most_popular_rows if row not in hidden_rows)
        return Retrieval(
            tuple(
                RetrievedItem(self.catalog.item_id(row), float(self.catalog.popularity_N1[row]), "popular")
                for row in islice(visible, k)
            )
        )

    def attributes(self, item_id: str) -> dict[str, Any]:
        """Return what the catalog knows of an item. Raises UnknownItemError."""
        return self.catalog.attributes(self._row(item_id))

    def probe(self, item_ids: Sequence[str], k: int = 20, *, user_id: str | None = None) -> Probe:
        """Record what this bundle answers to a session of which it knows an item, with its default options."""
        interests_KD = self.encoder.encode(self._rows(item_ids)[0], self._user(user_id)[0])
        top = self.retrieve(item_ids, k, user_id=user_id).items
        return Probe(
            items=tuple(item_ids),
            user_id=user_id,
            interests=tuple(tuple(interest_D) for interest_D in interests_KD.tolist()),
            top=tuple(ScoredItem(item_id=item.item_id, score=item.score) for item in top),
        )

    def check_probes(self) -> None:
        """Raise BundleError unless the bundle has probes and answers each as it did at export, but for rounding."""
        if not self.manifest.probes:
            raise BundleError(f"{MANIFEST}: no probes, so nothing shows that the bundle answers as it did at export")
        for number, expected in enumerate(self.manifest.probes):
            if not self._rows(expected.items)[0]:
                raise BundleError(f"probe {number}: none of its items is in the catalog")
            if expected.user_id is not None and self._user(expected.user_id)[1] != "known":
                raise BundleError(f"probe {number}: its user is not in {USERS}")
            actual = self.probe(expected.items, len(expected.top), user_id=expected.user_id)
            if not np.allclose(actual.interests, expected.interests, rtol=0, atol=_tolerance(expected.interests)):
                raise BundleError(f"probe {number}: {ENCODER} gives other interests than at export")
            if not _same_top(actual.top, expected.top):
                raise BundleError(f"probe {number}: {INDEX} gives other items or scores than at export")

    def _user(self, user_id: str | None) -> tuple[int, User | None]:
        """Return a user's row, and whether the encoder knows the user."""
        if user_id is None or not self.users:
            return UNKNOWN, None
        row = self.users.row(user_id)
        return row, "unknown" if row == UNKNOWN else "known"

    def _row(self, item_id: str) -> int:
        row = self.catalog.row(item_id)
        if row is None:
            raise UnknownItemError(item_id)
        return row

    def _rows(self, item_ids: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
        """Split a session into the rows of its known items and the ids of its unknown ones, each id once."""
        rows = [self.catalog.row(item_id) for item_id in item_ids]
        unknown = (item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None)
        return [row for row in rows if row is not None], tuple(dict.fromkeys(unknown))

    def _known_rows(self, item_ids: Iterable[str]) -> Iterator[int]:
        return (row for item_id in item_ids if (row := self.catalog.row(item_id)) is not None)

    def _items(self, candidates: Candidates) -> Iterator[RetrievedItem]:
        rows, scores, interests = (column.tolist() for column in candidates)
        for row, score, interest in zip(rows, scores, interests, strict=True):
            yield RetrievedItem(self.catalog.item_id(row), score, "encoder", interest)


def _check_vectors(vectors_N1D: NDArray[np.float32]) -> None:
    if vectors_N1D[0].any():
        raise BundleError(f"{VECTORS}: row 0, the padding, is not zero")
    for start in range(0, len(vectors_N1D), FINITE_CHECK_ROWS):
        if not np.isfinite(vectors_N1D[start : start + FINITE_CHECK_ROWS]).all():
            raise BundleError(f"{VECTORS}: holds NaN or infinity after row {start}")


def _same_top(actual: Sequence[ScoredItem], expected: Sequence[ScoredItem]) -> bool:
    """Compare two lists of items by score; items whose scores are equal within the tolerance may stand in any order."""
    actual_scores, expected_scores = ([item.score for item in items] for items in (actual, expected))
    tolerance = _tolerance(expected_scores)
    if len(actual_scores) != len(expected_scores) or not np.allclose(
        actual_scores, expected_scores, rtol=0, atol=tolerance
    ):
        return False
    actual_by_id = {item.item_id: item.score for item in actual}
    last = expected_scores[-1]
    return all(abs(actual_by_id.get(item.item_id, last) - item.score) <= tolerance for item in expected)


def _tolerance(numbers: Sequence[float] | Sequence[Sequence[float]]) -> float:
    return PROBE_TOLERANCE * float(np.abs(numbers).max())
