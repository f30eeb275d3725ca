"""What every model is to the trainer, the exporter and the tests."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class SessionEncoder(nn.Module, ABC):
    """Encodes sessions as interests, in the space of its item vectors.

    Dimension key: B sessions, L positions, K interests, D embedding, N rows (item rows 1..N-1 and the padding).
    """

    max_length: int
    """Items of a session that are read, the newest."""

    @abstractmethod
    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL (int64 rows, oldest first, left-padded with 0, L >= 2) as interests_BKD (float32).

        Made of tensor operations alone, whatever B and L, so that it exports: graphs and masks are derived inside.
        Each session holds at least one item that is not padding; an empty one has no meaning.
        """

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """vectors_ND: what the index holds; an interest scores an item by their inner product. Row 0 is zero."""

    @abstractmethod
    def loss(self, items_BL: Tensor, targets_B: Tensor) -> Tensor:
        """Batch mean of what training makes smaller, given the true next item of each session."""
