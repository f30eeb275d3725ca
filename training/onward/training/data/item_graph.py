"""Graphs of the items in sessions, and the propagation of vectors over them.

Source: He et al., "LightGCN", SIGIR 2020, for the propagation and the graph of users and items.
Dimension key: N rows (item rows 1..N-1 and the padding), U users, D embedding, T targets of edges, S their sources,
E edges, K neighbours of an item.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions
from onward.training.data.padding import PADDING


class ItemGraph(nn.Module):
    """Items with an edge to themselves and to every item at most `reach` steps away in some session.

    The edge from item i to item j has the weight 1 / sqrt(degree of i * degree of j). The padding row has no edge.
    """

    def __init__(self, corpus: Corpus, reach: int) -> None:
        """Build the graph of the corpus's sessions; memory and time grow with events, not with items squared."""
        super().__init__()
        rows = corpus.items + 1
        self.edges = Edges(*np.divmod(_edge_keys(corpus.sessions, rows, reach), rows), rows, rows)

    def forward(self, vectors_ND: Tensor, layers: int) -> Tensor:
        """Return the sum of the vectors and of their propagations by 1, 2, ... `layers` steps along the edges."""
        summed_ND = vectors_ND
        for _ in range(layers):
            vectors_ND = propagate(vectors_ND, self.edges, self.edges)
            summed_ND = summed_ND + vectors_ND
        return summed_ND


class UserItemGraph(nn.Module):
    """Users with an edge to every item of theirs, once however often they had it.

    A user is a session of the corpus: where sessions are whole histories, that is a user, else every session counts as
    one. The edge of user u and item i has the weight 1 / sqrt(degree of u * degree of i). The padding row has no edge.
    """

    def __init__(self, corpus: Corpus) -> None:
        """Build the graph of the corpus's sessions; memory and time grow with events."""
        super().__init__()
        rows = corpus.items + 1
        self.users = sum(len(part) for part in corpus.sessions)
        users_E, items_E = np.divmod(_ownership_keys(corpus.sessions, rows), rows)
        self.to_users = Edges(users_E, items_E, self.users, rows)
        by_item = np.argsort(items_E, kind="stable")
        self.to_items = Edges(items_E[by_item], users_E[by_item], rows, self.users)

    def forward(self, items_ND: Tensor, users_UD: Tensor, layers: int) -> Tensor:
        """Return the mean of the items' vectors and of their propagations by 1, 2, ... `layers` steps."""
        summed_ND = items_ND
        for layer in range(1, layers + 1):
            propagated_ND = propagate(users_UD, self.to_items, self.to_users)
            if layer < layers:
                users_UD = propagate(items_ND, self.to_users, self.to_items)
            items_ND = propagated_ND
            summed_ND = summed_ND + items_ND
        return summed_ND / (layers + 1)


class Edges(nn.Module):
    """Edges from sources to targets, grouped by target. An edge weighs 1 / sqrt(degree of one end * of the other)."""

    starts_T: Tensor
    """Index of the first edge of each target."""
    sources_E: Tensor
    weights_E: Tensor

    def __init__(self, targets_E: NDArray[np.int64], sources_E: NDArray[np.int64], targets: int, sources: int) -> None:
        """Store the edges, whose targets must ascend, between so many targets and sources."""
        super().__init__()
        degrees_T = np.bincount(targets_E, minlength=targets)
        roots_T = np.maximum(degrees_T, 1) ** -0.5
        roots_S = np.maximum(np.bincount(sources_E, minlength=sources), 1) ** -0.5
        arrays = {
            "starts_T": np.cumsum(degrees_T) - degrees_T,
            "sources_E": sources_E,
            "weights_E": (roots_T[targets_E] * roots_S[sources_E]).astype(np.float32),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)


class NeighbourGraph(nn.Module):
    """The items that were most often at most `reach` steps from each item in sessions, and their shares of these times.

    The shares of an item's neighbours sum to 1, to 0 if it has none, as the padding.
    """

    neighbours_NK: Tensor
    """Rows of the neighbours; padded."""
    shares_NK: Tensor
    """The share of each; 0 for padding."""

    def __init__(self, corpus: Corpus, neighbours: int, reach: int) -> None:
        """Count in the corpus's sessions; memory and time grow with events, not with items squared."""
        super().__init__()
        rows = corpus.items + 1
        targets_E, sources_E, shares_E, places_E = _nearest_pairs(corpus.sessions, rows, neighbours, reach)
        neighbours_NK = np.zeros((rows, neighbours), dtype=np.int64)
        shares_NK = np.zeros((rows, neighbours), dtype=np.float32)
        neighbours_NK[targets_E, places_E] = sources_E
        shares_NK[targets_E, places_E] = shares_E
        self.register_buffer("neighbours_NK", torch.from_numpy(neighbours_NK), persistent=False)
        self.register_buffer("shares_NK", torch.from_numpy(shares_NK), persistent=False)
        self.to_items = _weighted_edges(targets_E, sources_E, shares_E, rows)
        by_source = np.argsort(sources_E, kind="stable")
        self.to_neighbours = _weighted_edges(sources_E[by_source], targets_E[by_source], shares_E[by_source], rows)

    def of_all(self, vectors_ND: Tensor) -> Tensor:
        """Return for every row the weighted mean of its neighbours' vectors."""
        return propagate(vectors_ND, self.to_items, self.to_neighbours)

    def of_rows(self, rows: Tensor, vectors: nn.Embedding) -> Tensor:
        """Return for some rows (...) the weighted mean (..., D) of their neighbours' vectors."""
        means: Tensor = (self.shares_NK[rows].unsqueeze(-2) @ vectors(self.neighbours_NK[rows])).squeeze(-2)
        return means


class WeightedEdges(nn.Module):
    """Edges from sources to targets, grouped by target, with any weights."""

    def __init__(self, starts_T: Tensor, sources_E: Tensor, weights_E: Tensor) -> None:
        """Take the index of the first edge of each target, and source and weight of each edge."""
        super().__init__()
        self.register_buffer("starts_T", starts_T, persistent=False)
        self.register_buffer("sources_E", sources_E, persistent=False)
        self.register_buffer("weights_E", weights_E, persistent=False)


def propagate(vectors_SD: Tensor, edges: Edges | WeightedEdges, reverse: Edges | WeightedEdges) -> Tensor:
    """Return the weighted sum of the vectors of each target's sources; `reverse` is the edges the other way round."""
    summed_TD: Tensor = _WeightedSum.apply(vectors_SD, *edges.buffers(), *reverse.buffers())  # type: ignore[no-untyped-call]  # torch
    return summed_TD


def _edge_keys(parts: Sequence[Sessions], rows: int, reach: int) -> NDArray[np.int64]:
    """Return source * rows + target of every edge, both directions and self-loops, in ascending order."""
    nearby = [np.unique(keys) for part in parts for keys in _nearby_pairs(part, rows, reach)]
    upward = np.unique(np.concatenate(nearby)) if nearby else np.empty(0, dtype=np.int64)
    downward = upward % rows * rows + upward // rows
    loops = np.arange(1, rows) * (rows + 1)
    return np.sort(np.concatenate([upward, downward, loops]))


def _nearby_pairs(part: Sessions, rows: int, reach: int) -> Iterator[NDArray[np.int64]]:
    """Yield, for each distance, smaller * rows + greater of all pairs of distinct items so far apart in a session."""
    session = np.repeat(np.arange(len(part)), np.diff(part.offsets))
    for distance in range(1, reach + 1):
        earlier, later = part.rows[:-distance], part.rows[distance:]
        together = (session[:-distance] == session[distance:]) & (earlier != later)
        linked = together & (earlier != PADDING) & (later != PADDING)
        yield np.minimum(earlier, later)[linked] * rows + np.maximum(earlier, later)[linked]


def _nearest_pairs(
    parts: Sequence[Sessions], rows: int, neighbours: int, reach: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return item, neighbour, share and place among the item's neighbours of all pairs kept; items ascend."""
    keys = [keys for part in parts for keys in _nearby_pairs(part, rows, reach)]
    pairs, counts = np.unique(np.concatenate(keys) if keys else np.empty(0, np.int64), return_counts=True)
    one, other = np.divmod(pairs, rows)
    targets, sources, counts = np.concatenate([one, other]), np.concatenate([other, one]), np.tile(counts, 2)
    order = np.lexsort((sources, -counts, targets))
    targets, sources, counts = targets[order], sources[order], counts[order]
    places = np.arange(len(targets)) - np.searchsorted(targets, targets)
    kept = places < neighbours
    targets, sources, counts, places = targets[kept], sources[kept], counts[kept], places[kept]
    totals = np.bincount(targets, weights=counts, minlength=rows)
    return targets, sources, (counts / totals[targets]).astype(np.float32), places


def _weighted_edges(
    targets_E: NDArray[np.int64], sources_E: NDArray[np.int64], weights_E: NDArray[np.float32], targets: int
) -> WeightedEdges:
    """Return edges whose targets ascend."""
    degrees_T = np.bincount(targets_E, minlength=targets)
    starts_T = np.cumsum(degrees_T) - degrees_T
    return WeightedEdges(torch.from_numpy(starts_T), torch.from_numpy(sources_E), torch.from_numpy(weights_E))


def _ownership_keys(parts: Sequence[Sessions], rows: int) -> NDArray[np.int64]:
    """Return session * rows + item of every item of each session, in ascending order; sessions count over all parts."""
    if not parts:
        return np.empty(0, dtype=np.int64)
    items = np.concatenate([part.rows for part in parts])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    sessions = np.repeat(np.arange(len(lengths)), lengths)
    return np.unique((sessions * rows + items)[items != PADDING])


class _WeightedSum(torch.autograd.Function):
    """The weighted sum of the vectors of each target's sources. Its gradient is the same along the reversed edges."""

    @staticmethod
    def forward(ctx: FunctionCtx, vectors_SD: Tensor, *edges_and_reverse: Tensor) -> Tensor:
        ctx.save_for_backward(*edges_and_reverse[3:])
        return _weighted_sum(vectors_SD, *edges_and_reverse[:3])

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        reverse = ctx.saved_tensors  # type: ignore[attr-defined]  # absent from torch's stubs
        return _weighted_sum(grads[0].contiguous(), *reverse), *[None] * 6


def _weighted_sum(vectors_SD: Tensor, starts_T: Tensor, sources_E: Tensor, weights_E: Tensor) -> Tensor:
    """Sum by `embedding_bag`: on one core 25 times as fast as torch's product of a sparse and a dense matrix."""
    return F.embedding_bag(sources_E, vectors_SD, starts_T, mode="sum", per_sample_weights=weights_E)
