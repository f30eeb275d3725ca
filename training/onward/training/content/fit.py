"""Fit a content network to the vectors of trained items; its steps and lengths are chosen on hidden items.

A tenth of the trained items is hidden and the network is fitted to the others. Of the sessions whose next item is a
hidden one, the mean reciprocal rank of that item among the hidden ones, all by the vectors that their attributes give,
chooses when to stop and whether vectors keep their lengths or all get the mean length of trained items. The network is
then fitted to all items. It is of use only if it ranks the hidden items better than means of neighbours do.

The loss of an item is 1 - cosine, plus a tenth of the squared distance in units of the mean squared length; items count
by the square root of their numbers of events, since vectors of rare items are noise.

Related: Volkovs et al., "DropoutNet: Addressing Cold Start in Recommender Systems", NeurIPS 2017. That trains the
session vectors along; here those of the finished encoder stay, so that no trained item changes.

Dimension key: N rows of the item table (row 0 pads), D embedding, Q sessions, K interests, M items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onward.bundle.content.features import ContentFeatures
from onward.training.content.network import ContentNetwork, FeatureTable, content_vectors

MIN_ITEMS = 200
"""Trained items with attributes, below which no network is fitted."""
MAX_ITEMS = 50_000
"""Trained items that a network is fitted to: those with the most events."""
HIDDEN_SHARE = 0.1
MAX_HIDDEN = 2_000
BATCH = 512
EPOCHS = 28
MIN_STEPS, MAX_STEPS = 160, 1_600
WARM_UP = 30
LEARNING_RATE = 3e-3
SQUARED_DISTANCE = 0.1
STOPS = (0.25, 0.5, 1.0)
"""Shares of the steps after which the network is measured."""
SEED = 1


class TrainedItems(NamedTuple):
    """What is known of trained items."""

    attributes: Sequence[Mapping[str, Any]]
    """Of rows 1 to N - 1."""
    vectors_ND: NDArray[np.float32]
    popularity_N: NDArray[Any]


class HiddenTargets(NamedTuple):
    """Interests of sessions, and the place of each one's next item among the hidden items."""

    interests_QKD: NDArray[np.float32]
    places_Q: NDArray[np.int64]


class FittedContent(NamedTuple):
    """A fitted network, its features, and how it ranked hidden items beside means of neighbours."""

    network: ContentNetwork
    features: ContentFeatures
    length: float | None
    hidden: int
    mrr: float
    neighbours_mrr: float

    @property
    def is_better(self) -> bool:
        """Whether the network ranked hidden items better than means of neighbours did."""
        return self.mrr > self.neighbours_mrr


def fit_content(
    items: TrainedItems,
    targets_of: Callable[[NDArray[np.int64]], HiddenTargets],
    neighbours_of: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> FittedContent | None:
    """Fit a network; None if too few items have attributes, or no session has a hidden item to measure it by.

    Args:
        items: the trained items.
        targets_of: called with the rows of hidden items; returns the sessions that have one of them as next item.
        neighbours_of: called with the rows of hidden items; returns their vectors as means of neighbours among all
            others, zeros where there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _fit(items, targets_of, neighbours_of)


def _fit(
    items: TrainedItems,
    targets_of: Callable[[NDArray[np.int64]], HiddenTargets],
    neighbours_of: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> FittedContent | None:
    by_events = np.argsort(-items.popularity_N[1:], kind="stable")[:MAX_ITEMS]
    rows = 1 + np.sort(by_events)
    features = ContentFeatures.fit([items.attributes[row - 1] for row in rows])
    of_items = [features.of(items.attributes[row - 1]) for row in rows]
    rows = rows[[of_item is not None for of_item in of_items]]
    if len(rows) < MIN_ITEMS:
        return None
    table = FeatureTable.of([of_item for of_item in of_items if of_item is not None])
    weights_N = torch.from_numpy(np.sqrt(np.maximum(items.popularity_N[rows], 1)).astype(np.float32))
    vectors_ND = torch.from_numpy(items.vectors_ND[rows])
    length = float(vectors_ND.norm(dim=1).mean())

    order = torch.randperm(len(rows))
    count = min(MAX_HIDDEN, int(HIDDEN_SHARE * len(rows)))
    hidden, shown = order[:count].sort().values, order[count:]
    targets = targets_of(rows[hidden.numpy()])
    if not len(targets.places_Q):
        return None
    of_hidden = table.gather(hidden)
    tried: list[tuple[float, float, float | None]] = []

    def measure(network: ContentNetwork, share: float) -> None:
        for tried_length in (None, length):
            vectors_MD = content_vectors(network, of_hidden, tried_length)
            tried.append((mean_reciprocal_rank(targets, vectors_MD), share, tried_length))

    _train(table, vectors_ND, weights_N, shown, len(features.known_F), at_stops=measure)
    mrr, share, chosen_length = max(tried, key=lambda one: one[0])
    neighbours_mrr = mean_reciprocal_rank(targets, neighbours_of(rows[hidden.numpy()]))
    network = _train(table, vectors_ND, weights_N, torch.arange(len(rows)), len(features.known_F), until=share)
    return FittedContent(network.eval(), features, chosen_length, count, mrr, neighbours_mrr)


def mean_reciprocal_rank(targets: HiddenTargets, vectors_MD: NDArray[np.float32]) -> float:
    """Return the mean of 1 / rank of each session's target among M items, of equal ones the middle."""
    scores_QM = (targets.interests_QKD @ vectors_MD.T).max(axis=1)
    target_Q1 = scores_QM[np.arange(len(scores_QM)), targets.places_Q][:, np.newaxis]
    better_Q, equal_Q = (scores_QM > target_Q1).sum(axis=1), (scores_QM == target_Q1).sum(axis=1) - 1
    return float((1 / (1 + better_Q + equal_Q / 2)).mean())


def _train(
    table: FeatureTable,
    vectors_ND: Tensor,
    weights_N: Tensor,
    items_M: Tensor,
    features: int,
    *,
    until: float = 1.0,
    at_stops: Callable[[ContentNetwork, float], object] = lambda network, share: None,
) -> ContentNetwork:
    """Fit a network to some items; call `at_stops` with it at each of `STOPS`, and end after the share `until`."""
    network = ContentNetwork(features, vectors_ND.shape[1])
    optimizer = torch.optim.Adam(network.parameters())
    steps = min(MAX_STEPS, max(MIN_STEPS, EPOCHS * len(items_M) // BATCH))
    mean_square = vectors_ND.square().sum(dim=1).mean()
    stops = {max(1, round(share * steps)): share for share in STOPS}
    queue = items_M[:0]
    for step in range(1, round(until * steps) + 1):
        if len(queue) < min(BATCH, len(items_M)):
            queue = items_M[torch.randperm(len(items_M))]
        batch_B, queue = queue[:BATCH], queue[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP) * (1 - (step - 1) / steps)
        loss = _loss(network.train()(table.gather(batch_B)), vectors_ND[batch_B], weights_N[batch_B], mean_square)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in stops:
            at_stops(network, stops[step])
    return network


def _loss(content_BD: Tensor, vectors_BD: Tensor, weights_B: Tensor, mean_square: Tensor) -> Tensor:
    distance_B = (content_BD - vectors_BD).square().sum(dim=1) / mean_square
    loss_B = 1 - F.cosine_similarity(content_BD, vectors_BD) + SQUARED_DISTANCE * distance_B
    return (weights_B * loss_B).sum() / weights_B.sum()
