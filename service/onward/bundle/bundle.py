"""A bundle as one thing: everything that one answer needs, loaded whole and checked before it serves."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.encoder.encoder import Encoder, KernelUnavailable
from onward.bundle.files.arrays import open_array
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.manifest import (
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
from onward.bundle.files.users import UNKNOWN, Users
from onward.bundle.search.boosts import BoostLevels
from onward.bundle.search.index import Candidates, ItemIndex, shown_count
from onward.bundle.search.options import Options, RetrievalQuery, SessionView
from onward.bundle.search.popularity import Popularities
from onward.bundle.search.rankers import ByInterests, ByPopularity, BySimilarity, Ranker
from onward.bundle.search.reranking import Reranking, pool
from onward.bundle.search.retrieval import Retrieval, RetrievedItems, Rule, Source, User

PROBE_TOLERANCE = 1e-3  # of the largest number compared: what another CPU's rounding may change
FINITE_CHECK_ROWS = 65_536
NOTHING: Set[int] = frozenset()


class UnknownItemError(LookupError):
    """The catalog has no item of this id."""


class ItemRank(NamedTuple):
    """An item's rank, from 1, and its score, boosts included."""

    rank: int
    score: float


class _KnownSession(NamedTuple):
    """What a bundle knows of a session."""

    rows: Sequence[int]
    """Those that the encoder takes."""
    known_rows: Sequence[int]
    user_row: int
    user: User | None
    unknown_item_ids: tuple[str, ...]
    anchor: int | None
    """Where the encoder knows nothing of it, the row of the item that others are to be like."""

    @property
    def is_encodable(self) -> bool:
        return bool(self.rows) or self.user_row != UNKNOWN


NO_SESSION = _KnownSession((), (), UNKNOWN, None, (), None)


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
    levels: BoostLevels
    popularities: Popularities
    exported: "Bundle | None" = None
    """Without the changes that this one has; None where it has none."""
    changes_version: int = 0
    """The largest sequence of the changes."""

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
        catalog = Catalog.load(folder, manifest.items, manifest.attributes)
        bundle = cls(
            digest=digest,
            manifest=manifest,
            catalog=catalog,
            users=Users.load(folder, manifest.users),
            encoder=Encoder.load(
                folder / ENCODER,
                items=manifest.encodable_items,
                dimension=manifest.dimension,
                interests=manifest.interests,
                max_length=manifest.max_length,
                users=manifest.users,
            ),
            index=ItemIndex.load(folder / INDEX, manifest.index, vectors_N1D=vectors_N1D),
            vectors_N1D=vectors_N1D,
            levels=BoostLevels(catalog),
            popularities=Popularities(catalog),
        )
        if verify:
            bundle.check_probes()
        return bundle

    def accelerate(self, folder: Path) -> None:
        """Let a compiled kernel encode from now on, for this bundle and all that share its encoder.

        It may take seconds, where machine code has yet to be made. Raises KernelUnavailable where it can't, and the
        encoder program goes on encoding.

        Args:
            folder: that this bundle was loaded from.
        """
        info = self.manifest.kernel
        if info is None:
            raise KernelUnavailable("there is none for this encoder")
        sessions = [self._session(SessionView(probe.items), None).rows for probe in self.manifest.probes]
        self.encoder.accelerate(folder, info, items=self.manifest.encodable_items, sessions=[s for s in sessions if s])

    def retrieve(
        self,
        seen: SessionView,
        options: Options,
        *,
        user_id: str | None = None,
        popular_now: Mapping[str, float] | None = None,
    ) -> Retrieval:
        """Return the items most likely to follow a session.

        Where the encoder knows nothing of the session, the items similar to the last one of which there is a vector,
        and without any such the popular ones.

        Args:
            seen: the session; ids that the catalog does not have are reported and left out.
            options: what to show and how.
            user_id: whose session it is. A user whom the encoder knows is answered without any known item too; one
                whom it does not know is answered by the session alone.
            popular_now: weights of recent events by item, an object that nobody changes, for the popular items.
        """
        session = self._session(seen, user_id)
        interests_KD = self.encoder.encode(session.rows, session.user_row) if session.is_encodable else None
        hidden_rows = self._hidden_rows(session, seen, options)
        ranker = self._ranker(session, options, interests_KD, popular_now)
        return self._ranked(ranker, options, hidden_rows, session)

    def retrieve_all(
        self, wanted: Sequence[RetrievalQuery], *, popular_now: Mapping[str, float] | None = None
    ) -> list[Retrieval]:
        """Return what `retrieve` returns for each, but for the rounding of scores, encoded and searched together.

        One by one are searched those from which something of their own is hidden, or that ask for more than a search.
        """
        sessions = [self._session(one.seen, one.user_id) for one in wanted]
        interests_BKD = self._encoded([session for session in sessions if session.is_encodable])
        alike: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)
        answers: list[Retrieval | None] = []
        encoded = 0
        for place, (session, (seen, options, _)) in enumerate(zip(sessions, wanted, strict=True)):
            hidden_rows = self._hidden_rows(session, seen, options)
            if session.is_encodable and options.searches_alone and not hidden_rows:
                alike[options.filter and options.filter.key, options.k].append((place, encoded))
                answers.append(None)
            else:
                interests_KD = interests_BKD[encoded] if session.is_encodable else None
                ranker = self._ranker(session, options, interests_KD, popular_now)
                answers.append(self._ranked(ranker, options, hidden_rows, session))
            encoded += session.is_encodable
        for searches in alike.values():
            options = wanted[searches[0][0]].options
            eligible = self.catalog.eligible(options.filter)
            some_BKD = interests_BKD[[number for _, number in searches]]
            candidates = self.index.search_all(some_BKD, options.k, eligible=eligible)
            for (place, _), found in zip(searches, candidates, strict=True):
                answers[place] = self._retrieval(sessions[place], found, "encoder", shown=eligible.count)
        return cast(list[Retrieval], answers)

    def contributions(self, wanted: RetrievalQuery, item_ids: Sequence[str]) -> dict[str, list[float]]:
        """Tell what each event of a session does for some items that the encoder brought.

        Returns for each item a number for each place of the session: the item's score, without boosts, less what it
        would be without that event, and 0 for an event that the encoder does not read. The only event that it reads
        has the whole score, unless it knows the user.
        """
        session = self._session(wanted.seen, wanted.user_id)
        if not item_ids or not session.is_encodable:
            return {}
        without = [session._replace(rows=(*session.rows[:n], *session.rows[n + 1 :])) for n in range(len(session.rows))]
        interests_BKD = self._encoded([session, *(one for one in without if one.is_encodable)])
        vectors_ID = self.index.vectors(np.array([self._row(item_id) for item_id in item_ids]))
        scores_BI = (interests_BKD @ vectors_ID.T).max(axis=1)
        left_IL = np.zeros((len(item_ids), len(session.rows)), dtype=np.float64)
        left_IL[:, : len(scores_BI) - 1] = scores_BI[1:].T
        done_IL = scores_BI[0][:, np.newaxis] - left_IL
        of_places = np.zeros((len(item_ids), len(wanted.seen.item_ids)))
        of_places[:, self._encodable_places(wanted.seen.item_ids)] = done_IL
        return dict(zip(item_ids, of_places.tolist(), strict=True))

    def item_rank(
        self, item_id: str, wanted: RetrievalQuery, *, popular_now: Mapping[str, float] | None = None
    ) -> ItemRank:
        """Tell where an item that may be shown stands among all of these, by boosted scores, pins and diversity aside.

        Raises UnknownItemError.
        """
        session, options = self._session(wanted.seen, wanted.user_id), wanted.options
        interests_KD = self.encoder.encode(session.rows, session.user_row) if session.is_encodable else None
        ranker = self._ranker(session, options, interests_KD, popular_now)
        hidden_rows = self._hidden_rows(session, wanted.seen, options)
        rows = np.setdiff1d(self.catalog.eligible(options.filter).selected, [*hidden_rows])
        scores = self._boosted(ranker, rows, options)
        own = float(
            scores[np.searchsorted(rows, self._row(item_id))]
        )  # computed beside the others, since rounding goes by the shape
        return ItemRank(rank=1 + int(np.count_nonzero(scores > own)), score=own)

    def similar(self, item_id: str, options: Options, *, popular_now: Mapping[str, float] | None = None) -> Retrieval:
        """Return the items nearest to an item, by the cosine of their vectors; popular ones where it has none.

        Raises UnknownItemError.
        """
        row = self._row(item_id)
        ranker = self._without_encoder(row if self._has_vector(row) else None, options, popular_now)
        return self._ranked(ranker, options, {row, *self._known_rows(options.exclude)})

    def popular(self, options: Options, *, popular_now: Mapping[str, float] | None = None) -> Retrieval:
        """Return the most popular items, their popularity as the score."""
        return self._ranked(
            self._without_encoder(None, options, popular_now), options, set(self._known_rows(options.exclude))
        )

    def rule_against(self, item_id: str, wanted: RetrievalQuery) -> Rule | None:
        """Tell what keeps an item from an answer, whatever its score; None where nothing does."""
        session = self._session(wanted.seen, wanted.user_id)
        return self._rule_against(item_id, wanted.options, self._hidden_rows(session, wanted.seen, wanted.options))

    def expected_products(self, options: Options, *, hidden: int) -> int:
        """Estimate the multiplications of an answer to a session of which `hidden` items are not to be shown."""
        eligible = self.catalog.eligible(options.filter)
        if not options.boosts:
            return self._products_of(eligible, options, hidden)
        parts = self.levels.of(options.filter, options.boosts).eligible
        if not parts:
            return self.manifest.interests * self.manifest.dimension * self.manifest.items
        return sum(self._products_of(part, options, hidden) for part in parts)

    def with_changes(self, changes: Sequence[ItemChange]) -> "Bundle":
        """This bundle as exported, with all that became of its items since; those that it holds already are skipped.

        It shares all large arrays with this one.
        """
        exported = self.exported or self
        later = [change for change in changes if change.sequence > self.manifest.folded_changes]
        catalog = exported.catalog.changed(later)
        return replace(
            exported,
            catalog=catalog,
            index=exported.index.with_cold(catalog.cold_vectors_MD(self.manifest.dimension)),
            levels=BoostLevels(catalog),
            popularities=Popularities(catalog),
            exported=exported,
            changes_version=max((change.sequence for change in changes), default=0),
        )

    def attributes(self, item_id: str) -> Mapping[str, Any]:
        """Return what the catalog knows of an item. Raises UnknownItemError."""
        return self.catalog.attributes(self._row(item_id))

    def probe(self, item_ids: Sequence[str], k: int = 20, *, user_id: str | None = None) -> Probe:
        """Record what this bundle answers to a session of which it knows an item, with its default options."""
        interests_KD = self.encoder.encode(self._rows(item_ids)[0], self._user(user_id)[0])
        top = self.retrieve(SessionView(item_ids), Options(k), user_id=user_id).items
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

    def _products_of(self, eligible: Eligible, options: Options, hidden: int) -> int:
        return self.index.expected_products(self.manifest.interests, pool(options), eligible=eligible, hidden=hidden)

    def _session(self, seen: SessionView, user_id: str | None) -> _KnownSession:
        known_rows, unknown_item_ids = self._rows(seen.item_ids)
        user_row, user = self._user(user_id)
        last = self.manifest.encodable_items
        rows = known_rows if max(known_rows, default=0) <= last else [row for row in known_rows if row <= last]
        anchor = None if rows or user_row != UNKNOWN else self._anchor(known_rows)
        return _KnownSession(rows, known_rows, user_row, user, unknown_item_ids, anchor)

    def _anchor(self, rows: Sequence[int]) -> int | None:
        return next((row for row in reversed(rows) if self._has_vector(row)), None)

    def _encoded(self, sessions: Sequence[_KnownSession]) -> NDArray[np.float32]:
        """interests_BKD of sessions that can be encoded."""
        if not sessions:
            return np.empty((0, self.manifest.interests, self.manifest.dimension), dtype=np.float32)
        return self.encoder.encode_all([one.rows for one in sessions], [one.user_row for one in sessions])

    def _encodable_places(self, item_ids: Sequence[str]) -> list[int]:
        rows = self.catalog.rows(item_ids)
        return [place for place, row in enumerate(rows) if row is not None and row <= self.manifest.encodable_items]

    def _ranker(
        self,
        session: _KnownSession,
        options: Options,
        interests_KD: NDArray[np.float32] | None,
        popular_now: Mapping[str, float] | None,
    ) -> Ranker:
        """What scores the items for a session."""
        if interests_KD is not None:
            return ByInterests(self.index, interests_KD, options.exact)
        return self._without_encoder(session.anchor, options, popular_now)

    def _boosted(self, ranker: Ranker, rows_C: NDArray[np.int64], options: Options) -> NDArray[np.floating[Any]]:
        scores_C = ranker.scores(rows_C)
        if not options.boosts:
            return scores_C
        return ranker.boosted(scores_C, self.levels.of(options.filter, options.boosts).added(rows_C))

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
        rows = self.catalog.rows(item_ids)
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            return known, ()
        unknown = (item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None)
        return known, tuple(dict.fromkeys(unknown))

    def _known_rows(self, item_ids: Iterable[str]) -> list[int]:
        return [row for item_id in item_ids if (row := self.catalog.row(item_id)) is not None]

    def _hidden_rows(self, session: _KnownSession, seen: SessionView, options: Options) -> Set[int]:
        """The rows that neither the caller nor the session wants to be shown, and that which others are to be like."""
        wanted = self.manifest.defaults.exclude_seen if options.exclude_seen is None else options.exclude_seen
        if not (wanted or options.exclude or seen.hidden or session.anchor):
            return NOTHING
        hidden_rows = set(session.known_rows) if wanted is True else set()
        hidden_rows.update(self._known_rows(chain(options.exclude, seen.hidden, seen.purchased if wanted else ())))
        if session.anchor is not None:
            hidden_rows.add(session.anchor)
        return hidden_rows

    def _has_vector(self, row: int) -> bool:
        return bool(self.index.vectors(np.array([row])).any())

    def _without_encoder(self, anchor: int | None, options: Options, popular_now: Mapping[str, float] | None) -> Ranker:
        if anchor is None:
            return ByPopularity(self.popularities.now(popular_now))
        return BySimilarity(self.index, self.index.vectors(np.array([anchor]))[0], options.exact)

    def _ranked(
        self, ranker: Ranker, options: Options, hidden_rows: Set[int], session: _KnownSession = NO_SESSION
    ) -> Retrieval:
        eligible = self.catalog.eligible(options.filter)
        shown = shown_count(eligible, hidden_rows)
        if not options.reranks:
            found = ranker.best(eligible, options.k, hidden_rows=hidden_rows)
            return self._retrieval(session, found, ranker.source, shown=shown)
        rules = {pin.item_id: self._rule_against(pin.item_id, options, hidden_rows) for pin in options.pins}
        pins = {pin.position: self._row(pin.item_id) for pin in options.pins if rules[pin.item_id] is None}
        levels = self.levels.of(options.filter, options.boosts) if options.boosts else None
        rearranging = Reranking(self.catalog, self.index, ranker, options, levels)
        items, strategy = rearranging.items(eligible, hidden_rows, pins)
        not_pinned = {item_id: rule for item_id, rule in rules.items() if rule is not None}
        return Retrieval(items, session.unknown_item_ids, session.user, shown, strategy, not_pinned)

    def _retrieval(self, session: _KnownSession, found: Candidates, source: Source, *, shown: int) -> Retrieval:
        return Retrieval(self._items(found, source), session.unknown_item_ids, session.user, shown, found.strategy)

    def _rule_against(self, item_id: str, options: Options, hidden_rows: Set[int]) -> Rule | None:
        row = self.catalog.row(item_id)
        if self.catalog.is_deleted(item_id):
            return "deleted"
        if row is None:
            return "unknown_item"
        if not self.catalog.eligible().rows_R1[row]:
            return "unavailable"
        if not self.catalog.eligible(options.filter).rows_R1[row]:
            return "filtered"
        return "excluded" if row in hidden_rows else None

    def _items(self, candidates: Candidates, source: Source) -> RetrievedItems:
        item_ids = self.catalog.item_ids(candidates.rows.tolist())
        interests: tuple[int | None, ...]
        if source == "encoder" and self.manifest.interests > 1:
            interests = tuple(candidates.interests.tolist())
        else:
            interests = (0 if source == "encoder" else None,) * len(item_ids)
        return RetrievedItems(
            tuple(item_ids),
            tuple(candidates.scores.tolist()),
            (source,) * len(item_ids),
            interests,
        )


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
