"""Load a bundle, check it, and retrieve from it.

Dimension key: N items, R rows, D embedding, K interests, B sessions, I items to explain, L items of a session.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.cold_start import ColdStart
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.overlay import Pause, no_pause
from onward.bundle.content.tower import ContentTower
from onward.bundle.encoder.encoder import Encoder
from onward.bundle.encoder.kernel import KernelUnavailable, check_kernel_files
from onward.bundle.files.arrays import check_finite, check_vectors, open_array
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.manifest import (
    ENCODER,
    INDEX,
    MANIFEST,
    QUERIES,
    USERS,
    VECTORS,
    BundleError,
    Manifest,
    Probe,
    ScoredItem,
    check_files,
    read_manifest,
)
from onward.bundle.files.users import UNKNOWN_USER, Users
from onward.bundle.probes import probe_fault
from onward.bundle.search.boosts import BoostLevelCache
from onward.bundle.search.index import Candidates, ItemIndex, visible_count
from onward.bundle.search.nearest_sessions import NearestSessions, SessionBonus, check_stored_sessions
from onward.bundle.search.popularity import PopularityCache
from onward.bundle.search.rankers import ByInterests, ByInterestsAndSessions, ByPopularity, BySimilarity, Ranker
from onward.bundle.search.repeats import with_repeats
from onward.bundle.search.reranking import Reranker, pool_size
from onward.bundle.search.retrieval import (
    ExcludeSeen,
    Options,
    Retrieval,
    RetrievalQuery,
    RetrievedItems,
    Rule,
    SessionView,
    Source,
    User,
)

NO_ROWS: Set[int] = frozenset()
FALLBACK_ROWS = 256
"""Popular items whose attributes a fallback reads if it needs a filter that is not cached."""
MAX_LIKENED = 20
"""Number of items with the most votes that a new item is compared with."""
SAME_DIRECTION = 1 - 1e-5
"""Smallest cosine of two vectors that were computed from the same attributes."""
PRODUCTS_PER_SCANNED_ITEM = 40
"""Multiplications that take as long as reading one item's attributes."""


class UnknownItemError(LookupError):
    """The catalog has no item with this id."""


class ItemRank(NamedTuple):
    """An item's rank, from 1, and its score, including boosts."""

    rank: int
    score: float


class ResolvedSession(NamedTuple):
    """A session with its ids resolved to the rows of a bundle."""

    rows: Sequence[int]
    """Rows that the encoder knows, oldest first."""
    known_rows: Sequence[int]
    """Rows of the catalog, including new items."""
    user_row: int
    user: User | None
    unknown_item_ids: tuple[str, ...]
    anchor: int | None
    """If the session is not encodable, the row of its last item with a vector; similar items are then the answer."""

    @property
    def is_encodable(self) -> bool:
        """Whether the encoder knows an item or the user of the session."""
        return bool(self.rows) or self.user_row != UNKNOWN_USER


NO_SESSION = ResolvedSession((), (), UNKNOWN_USER, None, (), None)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Encoder, index, vectors, catalog and users of one export. Immutable and thread-safe."""

    digest: str
    manifest: Manifest
    catalog: Catalog
    users: Users
    encoder: Encoder
    index: ItemIndex
    vectors_N1D: NDArray[np.float32]
    boost_levels: BoostLevelCache
    popularity: PopularityCache
    nearest_sessions: NearestSessions | None = None
    """Past sessions that vote for items, if the bundle has any."""
    content: ContentTower | None = None
    """Gives items without history their vectors, if the bundle has a content program."""
    exported: "Bundle | None" = None
    """The bundle as exported, if this one has live changes."""
    changes_version: int = 0
    """The largest sequence of the live changes."""

    @classmethod
    def load(cls, folder: str | PathLike[str], *, verify: bool = True, hashed: bool = False) -> "Bundle":
        """Load a bundle from its folder or a link to it, such as `bundles/current`.

        With `verify`, every file's SHA-256 is checked before parsing, and the probes are run at the end. Without it,
        only the manifest, sizes, types and shapes are checked. Raises BundleError with the file and the reason.
        `hashed` says that the caller has compared the hashes of these files, so that they are not read for that again.

        The files stay mapped: the process would be killed if one of them shrank. Replace a bundle, never change one.
        """
        try:
            return cls._load(Path(folder).resolve(), verify=verify, hashed=hashed)
        except OSError as error:
            raise BundleError(f"{Path(str(error.filename or folder)).name}: {error.strerror}") from error
        except RuntimeError as error:  # of Python 3.12 and before
            raise BundleError(f"{Path(folder).name}: {error}") from error

    @classmethod
    def _load(cls, folder: Path, *, verify: bool, hashed: bool) -> "Bundle":
        manifest, digest = read_manifest(folder)
        check_files(folder, manifest, hashes=verify and not hashed)
        vectors_N1D = open_array(folder / VECTORS, np.float32, (manifest.items + 1, manifest.dimension))
        if verify:
            check_vectors(VECTORS, vectors_N1D)
            _check_other_arrays(folder, manifest)
        catalog = Catalog.load(folder, manifest.items, manifest.attributes)
        index = ItemIndex.load(folder / INDEX, manifest.index, vectors_N1D=vectors_N1D)
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
            index=index,
            vectors_N1D=vectors_N1D,
            boost_levels=BoostLevelCache(catalog, index),
            popularity=PopularityCache(catalog),
            nearest_sessions=None
            if manifest.nearest_sessions is None
            else NearestSessions.load(folder, manifest.nearest_sessions),
            content=None
            if manifest.content is None
            else ContentTower.load(folder, manifest.content, dimension=manifest.dimension, verify=verify),
        )
        if verify:
            bundle.check_probes()
        return bundle

    def accelerate(self, folder: str | PathLike[str]) -> None:
        """Encode and find nearest sessions by compiled code from now on, for this bundle and all that share its files.

        Takes seconds if the machine code has to be compiled. Raises KernelUnavailable if there is no usable kernel of
        the encoder; its program then keeps encoding.

        Args:
            folder: the folder that this bundle was loaded from.
        """
        sessions = [self._resolve(SessionView(probe.items), None).rows for probe in self.manifest.probes]
        known_sessions = [rows for rows in sessions if rows]
        if self.nearest_sessions is not None:
            self.nearest_sessions.accelerate(known_sessions)
        info = self.manifest.kernel
        if info is None:
            raise KernelUnavailable("the bundle has no kernel for this encoder")
        self.encoder.accelerate(Path(folder), info, sessions=known_sessions)

    def retrieve(
        self,
        session: SessionView,
        options: Options,
        *,
        user_id: str | None = None,
        popular_now: Mapping[str, float] | None = None,
    ) -> Retrieval:
        """Return the items most likely to follow a session.

        If the encoder knows nothing about the session, items similar to its last one with a vector are returned; if it
        has none, popular items.

        Args:
            session: the session; ids that the catalog does not have are reported and otherwise ignored.
            options: which items to return and in which order.
            user_id: the session's user. The encoder can answer for a user whom it knows without any known item; an
                unknown user is ignored.
            popular_now: weights of recent events by item, for the popular items; never change a mapping once passed.
        """
        return self.retrieve_all([RetrievalQuery(session, options, user_id)], popular_now=popular_now)[0]

    def retrieve_all(
        self, queries: Sequence[RetrievalQuery], *, popular_now: Mapping[str, float] | None = None
    ) -> list[Retrieval]:
        """Answer a micro-batch of queries, each as `retrieve` does; rounding of scores depends on the batch.

        All sessions are encoded together. Queries with the same filter and k are searched together, except those that
        hide rows, but for the last item of the session, or re-rank, and those of a bundle with nearest sessions or
        repeats: these are searched one by one. Those that ask for an exact search are scanned together, whatever rows
        they hide.
        """
        sessions = [self._resolve(query.session, query.user_id) for query in queries]
        interests_BKD = self._encode_all([session for session in sessions if session.is_encodable])
        batches: defaultdict[Any, list[tuple[int, int, Set[int]]]] = defaultdict(list)
        scans: defaultdict[Any, list[tuple[int, int, Set[int]]]] = defaultdict(list)
        answers: list[Retrieval | None] = []
        encoded = 0
        # Group the queries that can share an index search, and answer the others one by one.
        for place, (session, (view, options, _)) in enumerate(zip(sessions, queries, strict=True)):
            hidden_rows = self._hidden_rows(session, view, options)
            hides_last = len(hidden_rows) == 1 and self._exclude_seen(options) == "last"
            is_plain = options.is_plain_search and not self._has_bonus
            is_encodable = session.is_encodable
            if is_encodable and is_plain and (hides_last or not hidden_rows):
                key = options.filter and options.filter.key, options.k, hides_last
                batches[key].append((place, encoded, hidden_rows))
                answers.append(None)
            elif is_encodable and options.exact and not options.reranks and not self._has_bonus:
                scans[options.filter and options.filter.key, options.k].append((place, encoded, hidden_rows))
                answers.append(None)
            else:
                interests_KD = interests_BKD[encoded] if is_encodable else None
                ranker = self._ranker(session, options, interests_KD, popular_now)
                answers.append(self._rank(ranker, options, hidden_rows, session))
            encoded += is_encodable
        for (_, k, hides_last), batch in batches.items():
            eligible = self.catalog.eligible(queries[batch[0][0]].options.filter)
            batch_BKD = interests_BKD[[number for _, number, _ in batch]]
            results = self.index.search_all(batch_BKD, k + hides_last, eligible=eligible)
            for (place, _, hidden_rows), candidates in zip(batch, results, strict=True):
                visible = candidates.without(*hidden_rows, k=k) if hides_last else candidates
                count = visible_count(eligible, hidden_rows)
                answers[place] = self._retrieval(sessions[place], visible, "encoder", count)
        for (_, k), batch in scans.items():
            eligible = self.catalog.eligible(queries[batch[0][0]].options.filter)
            hidden = [hidden_rows for _, _, hidden_rows in batch]
            batch_BKD = interests_BKD[[number for _, number, _ in batch]]
            results = self.index.scan_all(batch_BKD, k, eligible=eligible, hidden_rows=hidden)
            for (place, _, hidden_rows), candidates in zip(batch, results, strict=True):
                count = visible_count(eligible, hidden_rows)
                answers[place] = self._retrieval(sessions[place], candidates, "encoder", count)
        return cast(list[Retrieval], answers)

    def fallback(
        self, query: RetrievalQuery, *, max_products: int, popular_now: Mapping[str, float] | None = None
    ) -> Retrieval:
        """Answer in milliseconds, without the encoder, boosts, diversity and `exact`; filter, exclusions and pins hold.

        The items are similar to the last one of the session with a vector, or else popular. A filter that is not cached
        is evaluated for the `FALLBACK_ROWS` most popular items and the pinned ones alone, so that fewer than k items
        may be found.

        Args:
            query: the session, its user and the options.
            max_products: multiplications that a search for similar items may take; popular items otherwise.
            popular_now: weights of recent events by item; never change a mapping once passed.
        """
        session = self._resolve(query.session, query.user_id)
        options = replace(query.options, boosts=(), diversity=0, exact=False)
        hidden_rows = self._hidden_rows(session, query.session, options)
        eligible, anchor = self.catalog.cached_eligible(options.filter), None
        if eligible is None and options.filter is not None:
            pinned = self._known_rows(pin.item_id for pin in options.pins)
            candidates = [*self.catalog.most_popular_rows[:FALLBACK_ROWS].tolist(), *pinned]
            eligible = self.catalog.eligible_among(options.filter, candidates)
        elif eligible is not None and max_products >= self.index.expected_products(
            1, options.k, eligible=eligible, hidden=len(hidden_rows) + 1
        ):
            anchor = self._last_with_vector(session.known_rows)
        ranker = self._ranker_without_encoder(anchor, options, popular_now)
        if anchor is not None:
            hidden_rows = hidden_rows | {anchor}
        return self._rank(ranker, options, hidden_rows, session, eligible)

    def contributions(self, query: RetrievalQuery, item_ids: Sequence[str]) -> dict[str, list[float]]:
        """Return how much each event of a session contributes to the scores of items that the encoder found.

        Returns for each item one number for each place of the session: the item's score, without boosts, minus its
        score without that event; 0 for an event that the encoder does not read. If the encoder reads a single event
        and does not know the user, that event contributes the whole score.
        """
        session = self._resolve(query.session, query.user_id)
        if not item_ids or not session.is_encodable:
            return {}
        shorter = [self._without(session, n) for n in range(len(session.rows))]
        sessions = [session, *(without for without in shorter if without.is_encodable)]
        rows_I = np.array([self._row(item_id) for item_id in item_ids])
        interests_BKD = self._encode_all(sessions)
        scores_BI = (interests_BKD @ self.index.vectors(rows_I).T).max(axis=1)
        bonuses = [bonus for some in sessions if (bonus := self._bonus(some)) is not None]
        if bonuses:
            scores_BI = scores_BI + [bonus.of(rows_I) for bonus in bonuses]
        scores_without_IL = np.zeros((len(item_ids), len(session.rows)), dtype=np.float64)
        scores_without_IL[:, : len(scores_BI) - 1] = scores_BI[1:].T
        contributions = np.zeros((len(item_ids), len(query.session.item_ids)))
        contributions[:, self._encodable_places(query.session.item_ids)] = (
            scores_BI[0][:, np.newaxis] - scores_without_IL
        )
        return dict(zip(item_ids, contributions.tolist(), strict=True))

    def attribute_contributions(self, query: RetrievalQuery, item_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return how much each attribute contributes to the inner product of items whose vectors come from content.

        It is the highest inner product with an interest of the session minus that of the vector without the attribute.
        Items with other vectors are left out.
        """
        session = self._resolve(query.session, query.user_id)
        if self.content is None or not session.is_encodable:
            return {}
        rows = {item_id: self._row(item_id) for item_id in item_ids}
        contents = {item_id: self.content_of(row) for item_id, row in rows.items()}
        if not any(contents.values()):
            return {}
        interests_KD = self.encoder.encode(session.rows, session.user_row)
        contributions = {}
        for item_id, attributes in contents.items():
            if attributes is not None:
                vector_D = self.index.vectors(np.array([rows[item_id]]))[0]
                score = float((interests_KD @ vector_D).max())
                contributions[item_id] = {
                    name: score - float((interests_KD @ without_D).max())
                    for name, without_D in self.content.without_each(attributes, like_D=vector_D).items()
                }
        return contributions

    def cold_start(self) -> ColdStart:
        """Return what computes vectors of items that this bundle lacks."""
        trained = self.manifest.encodable_items
        return ColdStart(self.catalog, self.vectors_N1D, trained_items=trained, content=self.content)

    def content_of(self, row: int) -> Mapping[str, Any] | None:
        """Return the attributes that a row's vector was computed from by the content program, None for another vector.

        A rebuild may have shortened it since.
        """
        if self.content is None or row <= self.encoder.items:
            return None
        stored = self.exported or self
        is_stored = row <= stored.catalog.items
        attributes = (stored if is_stored else self).catalog.attributes(row)
        expected_D, actual_D = self.content.vector(attributes), self.index.vectors(np.array([row]))[0]
        if expected_D is None or not actual_D.any():
            return None
        cosine = expected_D @ actual_D / (np.linalg.norm(expected_D) * np.linalg.norm(actual_D))
        return attributes if cosine > SAME_DIRECTION else None

    def item_rank(
        self, item_id: str, query: RetrievalQuery, *, popular_now: Mapping[str, float] | None = None
    ) -> ItemRank:
        """Return the rank of an item by boosted score among all items that the answer may contain, itself included.

        Pins and diversity are ignored. Raises UnknownItemError.
        """
        session, options = self._resolve(query.session, query.user_id), query.options
        interests_KD = self.encoder.encode(session.rows, session.user_row) if session.is_encodable else None
        ranker = self._ranker(session, options, interests_KD, popular_now)
        hidden_rows = self._hidden_rows(session, query.session, options)
        rows = np.setdiff1d(self.catalog.eligible(options.filter).selected, [*hidden_rows])
        scores = self._boosted(ranker, rows, options)
        # Taken from the same product as the others: rounding depends on the shapes.
        score = float(scores[np.searchsorted(rows, self._row(item_id))])
        return ItemRank(rank=1 + int(np.count_nonzero(scores > score)), score=score)

    def votes_for(self, item_ids: Sequence[str], rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what nearest sessions and repeats add to the scores of rows for a session, (C,); 0 without them."""
        bonus = self._bonus(self._resolve(SessionView(item_ids), None))
        return np.zeros(len(rows_C)) if bonus is None else bonus.of(rows_C)

    def similar(self, item_id: str, options: Options, *, popular_now: Mapping[str, float] | None = None) -> Retrieval:
        """Return the items most similar to an item, by the cosine of their vectors; popular items if it has no vector.

        Raises UnknownItemError.
        """
        row = self._row(item_id)
        ranker = self._ranker_without_encoder(row if self._has_vector(row) else None, options, popular_now)
        return self._rank(ranker, options, {row, *self._known_rows(options.exclude)})

    def popular(self, options: Options, *, popular_now: Mapping[str, float] | None = None) -> Retrieval:
        """Return the most popular items, with their popularity as the score."""
        ranker = self._ranker_without_encoder(None, options, popular_now)
        return self._rank(ranker, options, set(self._known_rows(options.exclude)))

    def rule_against(self, item_id: str, query: RetrievalQuery) -> Rule | None:
        """Return the rule that keeps an item out of an answer whatever its score, None if no rule does."""
        session = self._resolve(query.session, query.user_id)
        hidden_rows = self._hidden_rows(session, query.session, query.options)
        return self._rule_against(item_id, self.catalog.eligible(query.options.filter), hidden_rows)

    def expected_products(self, options: Options, *, hidden: int) -> int:
        """Estimate the multiplications of an answer that leaves out `hidden` items of its session.

        Re-ranking, or a filter that is not cached, scans the attributes of all items, which counts as
        `PRODUCTS_PER_SCANNED_ITEM` for each. For a filter that is not cached, the search after the scan is not counted.
        """
        scan = PRODUCTS_PER_SCANNED_ITEM * self.manifest.items
        eligible = self.catalog.cached_eligible(options.filter)
        if eligible is None:
            return scan
        if not options.reranks:
            return self._products_of_nearest_sessions() + self.index.expected_products(
                self.manifest.interests, options.k, eligible=eligible, hidden=hidden
            )
        if not options.boosts:
            return scan + self._products_of_pool(eligible, options, hidden)
        levels = self.boost_levels.of(options.filter, options.boosts).eligible
        if options.exact or not levels:
            return scan + self.manifest.interests * self.manifest.dimension * self.manifest.items
        return scan + sum(self._products_of_pool(level, options, hidden) for level in levels)

    def _products_of_nearest_sessions(self) -> int:
        if self.nearest_sessions is None:
            return 0
        new_items = self.catalog.items + self.catalog.added_since_export - self.nearest_sessions.info.items
        return self.nearest_sessions.expected_products + MAX_LIKENED * self.manifest.dimension * new_items

    def _products_of_pool(self, eligible: Eligible, options: Options, hidden: int) -> int:
        k = pool_size(options)
        return self.index.expected_products(self.manifest.interests, k, eligible=eligible, hidden=hidden)

    def with_changes(self, changes: Iterable[ItemChange]) -> "Bundle":
        """Return the exported bundle with all changes of its items since; changes that it includes are skipped.

        Changes of this bundle do not carry over. The result shares all large arrays with this one.
        """
        return (self.exported or self).with_further_changes(changes)

    def with_further_changes(self, changes: Iterable[ItemChange], *, pause: Pause = no_pause) -> "Bundle":
        """Return this bundle with more changes of its items; those that the exported bundle includes are skipped.

        The latest change of an item replaces all earlier ones. The cost is that of `Catalog.changed`.

        Args:
            changes: the changes, in any order.
            pause: called after every few changes, so that a thread in the background can let others run.
        """
        exported, all_changes = self.exported or self, list(changes)
        later = [change for change in all_changes if change.sequence > self.manifest.folded_changes]
        catalog = self.catalog.changed(later, pause=pause)
        index = self.index
        if catalog.version[2:4] != self.catalog.version[2:4]:
            index = index.with_new_vectors(catalog.new_vectors_MD(self.manifest.dimension))
        return replace(
            self,
            catalog=catalog,
            index=index,
            boost_levels=self.boost_levels.of_catalog(catalog),
            popularity=self.popularity.of_catalog(catalog),
            exported=exported,
            changes_version=max((change.sequence for change in all_changes), default=self.changes_version),
        )

    def attributes(self, item_id: str) -> Mapping[str, Any]:
        """Return the attributes of an item. Raises UnknownItemError."""
        return self.catalog.attributes(self._row(item_id))

    def probe(self, item_ids: Sequence[str], k: int = 20, *, user_id: str | None = None) -> Probe:
        """Record this bundle's answer to a session that has a known item, with default options."""
        interests_KD = self.encoder.encode(self._rows(item_ids)[0], self._user(user_id)[0])
        top = self.retrieve(SessionView(item_ids), Options(k), user_id=user_id).items
        return Probe(
            items=tuple(item_ids),
            user_id=user_id,
            interests=tuple(tuple(interest_D) for interest_D in interests_KD.tolist()),
            top=tuple(ScoredItem(item_id=item.item_id, score=item.score) for item in top),
        )

    def check_probes(self) -> None:
        """Raise BundleError unless the bundle has probes and reproduces the answer of each, but for rounding."""
        if not self.manifest.probes:
            raise BundleError(f"{MANIFEST}: no probes, so nothing shows that the bundle answers as it did at export")
        for number, expected in enumerate(self.manifest.probes):
            if not self._rows(expected.items)[0]:
                raise BundleError(f"probe {number}: none of its items is in the catalog")
            if expected.user_id is not None and self._user(expected.user_id)[1] != "known":
                raise BundleError(f"probe {number}: its user is not in {USERS}")
            fault = self._probe_fault(expected)
            if fault and self.manifest.interests > 1:  # an earlier revision may have recorded the probe
                fault = replace(self, index=self.index.scored_by_finders())._probe_fault(expected)
            if fault:
                raise BundleError(f"probe {number}: {fault}")

    def _probe_fault(self, expected: Probe) -> str | None:
        return probe_fault(self.probe(expected.items, len(expected.top), user_id=expected.user_id), expected)

    def _resolve(self, session: SessionView, user_id: str | None) -> ResolvedSession:
        known_rows, unknown_item_ids = self._rows(session.item_ids)
        user_row, user = self._user(user_id)
        last = self.encoder.items
        rows = known_rows if max(known_rows, default=0) <= last else [row for row in known_rows if row <= last]
        anchor = None if rows or user_row != UNKNOWN_USER else self._last_with_vector(known_rows)
        return ResolvedSession(rows, known_rows, user_row, user, unknown_item_ids, anchor)

    def _last_with_vector(self, rows: Sequence[int]) -> int | None:
        return next((row for row in reversed(rows) if self._has_vector(row)), None)

    def _encode_all(self, sessions: Sequence[ResolvedSession]) -> NDArray[np.float32]:
        """Return interests_BKD of encodable sessions."""
        if not sessions:
            return np.empty((0, self.manifest.interests, self.manifest.dimension), dtype=np.float32)
        return self.encoder.encode_all(
            [session.rows for session in sessions], [session.user_row for session in sessions]
        )

    def _without(self, session: ResolvedSession, number: int) -> ResolvedSession:
        """Return the session without one of the events that the encoder knows."""
        place = [place for place, row in enumerate(session.known_rows) if row <= self.encoder.items][number]
        return session._replace(
            rows=(*session.rows[:number], *session.rows[number + 1 :]),
            known_rows=(*session.known_rows[:place], *session.known_rows[place + 1 :]),
        )

    @property
    def _has_bonus(self) -> bool:
        return self.nearest_sessions is not None or self.manifest.repeats is not None

    def _bonus(self, session: ResolvedSession) -> SessionBonus | None:
        """Return what nearest sessions and repeats add to scores, None if the bundle has neither."""
        votes = None if self.nearest_sessions is None else self._votes(self.nearest_sessions, session)
        if self.manifest.repeats is None:
            return votes
        return with_repeats(votes, self.manifest.repeats, session.known_rows[-self.manifest.max_length :])

    def _votes(self, nearest_sessions: NearestSessions, session: ResolvedSession) -> SessionBonus:
        """Return what nearest sessions add to scores.

        They hold no item that is new since. It gets the votes for the item with votes that it is most like, times the
        cosine with it.
        """
        rows_V, votes_V = nearest_sessions.votes(session.known_rows)
        first = nearest_sessions.info.items + 1
        new_rows = self.catalog.eligible().selected_from(first)
        if len(new_rows) and len(rows_V):
            most = np.argsort(-votes_V)[:MAX_LIKENED]
            cosines = (self.index.units_from(first) @ self.index.units(rows_V[most]).T)[new_rows - first]
            rows_V = np.concatenate([rows_V, new_rows])
            votes_V = np.concatenate([votes_V, (np.maximum(cosines, 0) * votes_V[most]).max(axis=1)])
        return nearest_sessions.bonus(rows_V, votes_V, session.known_rows)

    def _encodable_places(self, item_ids: Sequence[str]) -> list[int]:
        rows = self.catalog.rows(item_ids)
        return [place for place, row in enumerate(rows) if row is not None and row <= self.encoder.items]

    def _ranker(
        self,
        session: ResolvedSession,
        options: Options,
        interests_KD: NDArray[np.float32] | None,
        popular_now: Mapping[str, float] | None,
    ) -> Ranker:
        if interests_KD is not None:
            by_interests = ByInterests(self.index, interests_KD, options.exact)
            bonus = self._bonus(session)
            return by_interests if bonus is None else ByInterestsAndSessions(by_interests, bonus)
        return self._ranker_without_encoder(session.anchor, options, popular_now)

    def _ranker_without_encoder(
        self, anchor: int | None, options: Options, popular_now: Mapping[str, float] | None
    ) -> Ranker:
        if anchor is None:
            return ByPopularity(self.popularity.of(popular_now))
        return BySimilarity(self.index, self.index.vectors(np.array([anchor]))[0], options.exact)

    def _boosted(self, ranker: Ranker, rows_C: NDArray[np.int64], options: Options) -> NDArray[np.floating[Any]]:
        scores_C = ranker.scores(rows_C)
        if not options.boosts:
            return scores_C
        return ranker.boosted(scores_C, self.boost_levels.of(options.filter, options.boosts).log_boost(rows_C))

    def _user(self, user_id: str | None) -> tuple[int, User | None]:
        """Return a user's row, and whether the encoder knows the user."""
        if user_id is None or not self.users:
            return UNKNOWN_USER, None
        row = self.users.row(user_id)
        return row, "unknown" if row == UNKNOWN_USER else "known"

    def _row(self, item_id: str) -> int:
        row = self.catalog.row(item_id)
        if row is None:
            raise UnknownItemError(item_id)
        return row

    def _rows(self, item_ids: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
        """Return the rows of a session's known items, and the ids of its unknown ones without repetitions."""
        rows = self.catalog.rows(item_ids)
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            return known, ()
        unknown = (item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None)
        return known, tuple(dict.fromkeys(unknown))

    def _known_rows(self, item_ids: Iterable[str]) -> list[int]:
        return [row for item_id in item_ids if (row := self.catalog.row(item_id)) is not None]

    def _hidden_rows(self, resolved: ResolvedSession, session: SessionView, options: Options) -> Set[int]:
        """Return the rows to leave out: those the options exclude, those the session hides, and the anchor."""
        exclude_seen = self._exclude_seen(options)
        if not (exclude_seen or options.exclude or session.hidden or resolved.anchor):
            return NO_ROWS
        hidden_rows = set(resolved.known_rows) if exclude_seen is True else set()
        if exclude_seen == "last":
            seen: Iterable[str] = session.item_ids[-1:]
        else:
            seen = session.purchased if exclude_seen else ()
        hidden_rows.update(self._known_rows(chain(options.exclude, session.hidden, seen)))
        if resolved.anchor is not None:
            hidden_rows.add(resolved.anchor)
        return hidden_rows

    def _exclude_seen(self, options: Options) -> ExcludeSeen:
        return self.manifest.defaults.exclude_seen if options.exclude_seen is None else options.exclude_seen

    def _has_vector(self, row: int) -> bool:
        return bool(self.index.vectors(np.array([row])).any())

    def _rank(
        self,
        ranker: Ranker,
        options: Options,
        hidden_rows: Set[int],
        session: ResolvedSession = NO_SESSION,
        eligible: Eligible | None = None,
    ) -> Retrieval:
        """Rank the eligible rows, which are by default those that the options' filter leaves."""
        eligible = eligible or self.catalog.eligible(options.filter)
        count = visible_count(eligible, hidden_rows)
        if not options.reranks:
            candidates = ranker.best(eligible, options.k, hidden_rows=hidden_rows)
            return self._retrieval(session, candidates, ranker.source, count)
        rules = {pin.item_id: self._rule_against(pin.item_id, eligible, hidden_rows) for pin in options.pins}
        pins = {pin.position: self._row(pin.item_id) for pin in options.pins if rules[pin.item_id] is None}
        levels = self.boost_levels.of(options.filter, options.boosts) if options.boosts else None
        reranker = Reranker(self.catalog, self.index, ranker, options, levels)
        items, strategy = reranker.items(eligible, hidden_rows, pins)
        not_pinned = {item_id: rule for item_id, rule in rules.items() if rule is not None}
        return Retrieval(items, session.unknown_item_ids, session.user, count, strategy, not_pinned)

    def _retrieval(self, session: ResolvedSession, candidates: Candidates, source: Source, eligible: int) -> Retrieval:
        items = self._items(candidates, source)
        return Retrieval(items, session.unknown_item_ids, session.user, eligible, candidates.strategy)

    def _rule_against(self, item_id: str, eligible: Eligible, hidden_rows: Set[int]) -> Rule | None:
        row = self.catalog.row(item_id)
        if self.catalog.is_deleted(item_id):
            return "deleted"
        if row is None:
            return "unknown_item"
        if not self.catalog.eligible().rows_R1[row]:
            return "unavailable"
        if not eligible.rows_R1[row]:
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


def _check_other_arrays(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError unless the arrays that are read later, if at all, have the right shapes and are finite."""
    if manifest.kernel is not None:
        items, max_length = manifest.encodable_items, manifest.max_length
        check_kernel_files(folder, manifest.kernel, items=items, max_length=max_length)
    if manifest.nearest_sessions is not None:
        check_stored_sessions(folder, manifest.nearest_sessions)
    if QUERIES in manifest.files:
        shape = (None, manifest.interests, manifest.dimension)
        check_finite(QUERIES, open_array(folder / QUERIES, np.float32, shape))
