"""What every model is to the trainer, the exporter and the tests."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from onward.training.data.examples import Batch


class SessionEncoder(nn.Module, ABC):
    """Encodes sessions as interests, in the space of its item vectors.

    Dimension key: B sessions, L positions, K interests, D embedding, N rows (item rows 1..N-1 and the padding).
    """

    max_length: int
    """Items of a session that are read, the newest."""
    horizon: int = 1
    """How many of the next items an example of training has as targets."""
    every_position: bool = False
    """Whether training examples are whole stretches of sessions with a target at every position."""
    users: int = 0
    """Users that `forward` takes, rows 1..users; 0 where it takes sessions alone."""

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
    def loss(self, batch: Batch) -> Tensor:
        """Batch mean of what training makes smaller."""

    def serving_form(self) -> nn.Module:
        """What is exported: it takes what `forward` takes and gives the same interests, at less cost where it can."""
        return self

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `forward` takes of a batch."""
        return (batch.items_BL,)


class UserEncoder(SessionEncoder):
    """Encodes sessions together with what is known of their users for longer."""

    @abstractmethod
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        """Encode as `SessionEncoder.forward` does, for the users of these rows; 0, or none given, is an unknown user.

        The session of a known user may be empty.
        """

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `forward` takes of a batch."""
        return (batch.items_BL, batch.users_B) if self.users else (batch.items_BL,)
