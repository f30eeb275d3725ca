"""The base classes of all models, through which the trainer, the exporter and the tests use them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from onward.training.data.examples import Batch


class SessionEncoder(nn.Module, ABC):
    """Encodes sessions as interests, in the space of its item vectors.

    Dimension key: B sessions, L positions, K interests, D embedding, N rows (item rows 1..N-1 and the padding).
    """

    max_length: int
    """Only the newest items of a session are read, at most this many."""
    horizon: int = 1
    """Number of next items that are targets of a training example."""
    every_position: bool = False
    """Whether training examples are windows of sessions with a target at every position."""
    item_tables: tuple[str, ...] = ("items.embedding.weight",)
    """Names of the weights that have a row for each item, and row 0 for the padding."""
    user_tables: tuple[str, ...] = ()
    """Names of the weights that have a row for each user, and row 0 for an unknown one."""
    session_tables: tuple[str, ...] = ()
    """Names of the weights that have a row for each training session: no other run can begin with them."""
    has_steps: bool = True
    """Whether weights are learnt by steps down the gradient of `loss`; without, a fit only creates the encoder."""
    sums_losses: bool = False
    """Whether `loss` is the sum over the targets of a batch instead of the mean."""
    takes_soft_targets: bool = False
    """Whether `loss` uses the soft targets of a batch, if the objective is the full softmax."""
    users: int = 0
    """Number of users that `forward` accepts, rows 1..users; 0 if it reads sessions only."""

    @abstractmethod
    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL (int64 rows, oldest first, left-padded with 0, L >= 2) as interests_BKD (float32).

        It uses tensor operations only and works for any B and L, so that it can be exported: it derives graphs and
        masks itself. Each session must hold at least one item; the result of an empty one is undefined.
        """

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return vectors_ND for the index; an inner product with an interest is a score. Row 0 is zero."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the batch mean of the loss that training minimises."""

    def added_scores(self, batch: Batch) -> Tensor | None:
        """Return scores_BN that are added to the inner products of interests and item vectors, None for nothing."""
        return None

    def serving_form(self) -> nn.Module:
        """Return the module to export: the same inputs and interests as `forward`, possibly at less cost."""
        return self

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the inputs of `forward` from a batch."""
        return (batch.items_BL,)


class UserEncoder(SessionEncoder):
    """Encodes sessions together with their users, whose long-term preferences are learnt."""

    @abstractmethod
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        """Encode as `SessionEncoder.forward` does, for users_B (user rows); 0 or None is an unknown user.

        The session of a known user may be empty.
        """

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the inputs of `forward` from a batch."""
        return (batch.items_BL, batch.users_B) if self.users else (batch.items_BL,)
