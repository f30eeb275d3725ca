"""Nearest sessions as an encoder: past sessions vote for their items, and vectors order those without votes.

Sources: Kersbergen, Sprangers and Schelter, "Serenade: Low-latency session-based recommendation in e-commerce at
scale", SIGMOD 2022 (VMIS-kNN), whose settings are place_power 1, match "linear", rarity_base 0 and rarity_factor 1;
with 2, "reciprocal", 1 and 10 it is V-SKNN: Ludewig and Jannach, User Modeling and User-Adapted Interaction 28, 2018.
The search itself: `onward.bundle.search.nearest_sessions`.

Nothing is learnt by steps. An item's vector is of its co-occurrence with others: the factors of the matrix of sessions
and items, of length 1, and in the last column its popularity, of so small a weight that cosines hardly notice. The
interest asks for similarity plus popularity, and is so short that votes decide first: it orders items with equal votes
and those without.
Dimension key: B sessions, L positions, D dimension, N rows (row 0 pads), S past sessions.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor

from onward.bundle import InputLength, KernelUnavailable, NearestSessions, NearestSessionsInfo
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.data.session_index import index_sessions
from onward.training.models.encoder import SessionEncoder

DECAY = 0.5
"""Weight of an item's vector, relative to the item after it."""
INTEREST_LENGTH = 1e-4
POPULARITY_SCALE = 0.05
"""The popularity column of the most popular item."""
POPULARITY_WEIGHT = 0.3
"""How much the most popular item gains over one that is as similar and never seen; chosen on validation of a shop."""
ITERATIONS = 6
"""Of the factorization; more change the vectors no longer."""
SESSIONS_AT_ONCE = 2**17

Sessionful = Annotated[int, Field(ge=1, le=100_000)]


class NearestSessionsOptions(BaseModel):
    """The `[encoder]` table of a recipe for nearest sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: Annotated[int, Field(ge=2)]
    max_length: InputLength
    """Only the newest items of a session are compared, at most this many."""
    candidates: Sessionful
    """Number of past sessions to compare with: the most recent ones that share an item."""
    neighbours: Sessionful
    """Number of candidates that vote: the most similar ones."""
    place_power: Literal[1, 2]
    match: Literal["linear", "reciprocal"]
    rarity_base: NonNegativeFloat
    rarity_factor: NonNegativeFloat
    repeat_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the votes that items of the session itself get, the latest ones most."""


class NearestSessionsEncoder(SessionEncoder):
    """Encodes a session as one interest, the mean of its items' vectors, and has past sessions vote for items."""

    has_steps = False
    item_tables = ("vectors_ND",)

    def __init__(self, corpus: Corpus, options: NearestSessionsOptions) -> None:
        """Index the corpus's sessions and factorize them, from torch's global random state."""
        super().__init__()
        self.max_length = options.max_length
        self.stored, counted = index_sessions(corpus.sessions, corpus.items, options.candidates)
        self.info = NearestSessionsInfo(
            sessions=len(self.stored.items_offsets) - 1,
            counted_sessions=counted,
            items=corpus.items,
            last_events=options.max_length,
            candidates=options.candidates,
            neighbours=options.neighbours,
            place_power=options.place_power,
            match=options.match,
            rarity_base=options.rarity_base,
            rarity_factor=options.rarity_factor,
            repeat_share=options.repeat_share,
            weight=1.0,
            last_event=max(filter(None, (part.last_event for part in corpus.sessions)), default=None),
        )
        self.vectors_ND: Tensor
        similar_ND = co_occurrence_vectors(corpus, options.dimension - 1)
        popular_N1 = torch.from_numpy(corpus.popularity()).float().log1p().unsqueeze(1)
        popular_N1 *= POPULARITY_SCALE / popular_N1.max() * similar_ND.any(dim=1, keepdim=True)
        self.register_buffer("vectors_ND", torch.cat([similar_ND, popular_N1], dim=1))

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        steps_back_L = torch.arange(items_BL.shape[1] - 1, -1, -1)
        weights_BL = DECAY ** steps_back_L.to(self.vectors_ND) * (items_BL != PADDING)
        means_BD = (weights_BL.unsqueeze(2) * self.vectors_ND[items_BL][:, :, :-1]).sum(dim=1)
        popularity_B1 = torch.full_like(means_BD[:, :1], POPULARITY_WEIGHT / POPULARITY_SCALE)
        return INTEREST_LENGTH * torch.cat([F.normalize(means_BD, dim=1), popularity_B1], dim=1).unsqueeze(1)

    def item_vectors(self) -> Tensor:
        """Return the vectors of co-occurrence and popularity."""
        return self.vectors_ND

    def loss(self, batch: Batch) -> Tensor:
        """Raise TypeError: neighbours are counted, not learnt, so the trainer takes no step that asks for a loss."""
        raise TypeError("nearest sessions have no loss")

    def added_scores(self, batch: Batch) -> Tensor:
        """Return the scores_BN that votes add to the inner products."""
        nearest = self.nearest_sessions
        scores_BN = np.zeros((len(batch.items_BL), self.info.items + 1), dtype=np.float32)
        for session, items_L in enumerate(batch.items_BL.tolist()):
            rows = [row for row in items_L if row != PADDING]
            bonus = nearest.bonus(*nearest.votes(rows), rows)
            scores_BN[session, bonus.rows_V] = bonus.of_shares(bonus.shares_V)
        return torch.from_numpy(scores_BN).to(batch.items_BL.device)

    @cached_property
    def nearest_sessions(self) -> NearestSessions:
        """The search as bundles have it, compiled if numba is installed."""
        nearest = NearestSessions(self.stored, self.info)
        with suppress(KernelUnavailable):
            nearest.accelerate([])
        return nearest


def co_occurrence_vectors(corpus: Corpus, dimension: int) -> Tensor:
    """Return vectors_ND of length 1, or 0 for an item without co-occurrence.

    They are the largest factors, by subspace iteration, of the matrix of sessions and distinct items, whose numbers are
    1 / sqrt(items of the session * sessions of the item).
    """
    rows = corpus.items + 1
    parts = [part for sessions in corpus.sessions for part in _incidence(sessions, rows)]
    popularity_N = torch.from_numpy(corpus.popularity()).clamp(min=1).float().rsqrt().unsqueeze(1)
    rank = min(dimension, rows)

    def product(vectors_ND: Tensor) -> Tensor:
        scaled_ND = popularity_N * vectors_ND
        total_ND = torch.zeros_like(vectors_ND)
        for sessions_SN, items_NS in parts:
            total_ND += items_NS @ (sessions_SN @ scaled_ND)
        return popularity_N * total_ND

    basis_ND = torch.linalg.qr(torch.randn(rows, rank)).Q
    for _ in range(ITERATIONS):
        basis_ND = torch.linalg.qr(product(basis_ND)).Q
    strengths_D, rotation_DD = torch.linalg.eigh(basis_ND.T @ product(basis_ND))
    vectors_ND = basis_ND @ (rotation_DD * strengths_D.clamp(min=0).sqrt())
    vectors_ND[PADDING] = 0
    is_short_N = vectors_ND.norm(dim=1) < 1e-6 * vectors_ND.norm(dim=1).max()
    vectors_ND = F.normalize(vectors_ND, dim=1).masked_fill(is_short_N.unsqueeze(1), 0)
    return F.pad(vectors_ND, (0, dimension - rank)).contiguous()


def _incidence(sessions: Sessions, rows: int) -> Sequence[tuple[Tensor, Tensor]]:
    """Return sparse matrices of sessions and items, and their transposes, some sessions at a time."""
    matrices = []
    for first in range(0, len(sessions), SESSIONS_AT_ONCE):
        offsets = sessions.offsets[first : first + SESSIONS_AT_ONCE + 1]
        items = sessions.rows[offsets[0] : offsets[-1]]
        session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        session, items = np.divmod(np.unique(session * rows + items), rows)
        values = 1 / np.sqrt(np.bincount(session)[session])
        places = torch.from_numpy(np.stack([session, items]))
        numbers = torch.from_numpy(values.astype(np.float32))
        sparse_SN = torch.sparse_coo_tensor(places, numbers, (len(offsets) - 1, rows), check_invariants=True)
        matrices.append((sparse_SN.coalesce(), sparse_SN.T.coalesce()))
    return matrices
