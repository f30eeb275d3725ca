"""Choose on validation how much more the items of a session itself score, by their place from its end.

Dimension key: B sessions, L positions, N rows (row 0 pads).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from onward.bundle import RepeatsInfo
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.evaluation.validation import validation_metrics
from onward.training.export.session_weight import WithSessions, validation_examples
from onward.training.models.encoder import SessionEncoder
from onward.training.models.ensemble import Ensemble
from onward.training.models.nearest_sessions import NearestSessionsEncoder
from onward.training.trained_run import fitted_to_training

NEWEST = (0.0, 0.5, 1.0, 2.0)
BEFORE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Bonuses that are tried for the item at hand, and for all before it."""
METRIC = "ndcg@20"
"""Chosen by; a bonus that lifts recall alone can push what visitors take next far down."""


def choose_repeat_bonuses(
    networks: Sequence[Path], nearest: Path | None, weight: float, dataset: Dataset, on_step: Callable[[str], object]
) -> RepeatsInfo | None:
    """Return the bonuses with the best NDCG@20 on validation, None if none is the best.

    The encoders are those of the fits to the training part alone; a refit has seen the validation examples. Without
    such fits or examples there are no bonuses, which is announced.
    """
    fitted = [member for run in networks if (member := fitted_to_training(run, dataset)) is not None]
    sessions = None if nearest is None else fitted_to_training(nearest, dataset)
    members = fitted if sessions is None else [*fitted, sessions]
    examples = validation_examples(dataset, members) if members else None
    if len(fitted) < len(networks) or (nearest is not None and sessions is None) or not examples:
        on_step("repeats: none, as there is nothing to choose them by on validation")
        return None
    exclude_seen = fitted[0].recipe.serving.exclude_seen_in(dataset)
    scored: SessionEncoder = fitted[0].encoder if len(fitted) == 1 else Ensemble([one.encoder for one in fitted])
    if sessions is not None and isinstance(sessions.encoder, NearestSessionsEncoder):
        scored = WithSessions(scored, sessions.encoder, weight)

    def measured(bonuses: tuple[float, float]) -> float:
        encoder = WithRepeats(scored, RepeatsInfo(bonuses=bonuses))
        return validation_metrics(encoder, examples, METRIC, exclude_seen=exclude_seen)[METRIC]

    before = {bonus: measured((0.0, bonus)) for bonus in BEFORE}
    best_before = max(before, key=before.__getitem__)
    newest = {bonus: measured((bonus, best_before)) for bonus in NEWEST}
    best = max(newest, key=newest.__getitem__), best_before
    on_step(f"repeats: bonuses {best}, validation {METRIC} {newest[best[0]]:.4f}, without {before[0.0]:.4f}")
    return RepeatsInfo(bonuses=best) if any(best) else None


class WithRepeats(SessionEncoder):
    """An encoder whose scores of a session's own items get a bonus."""

    def __init__(self, scored: SessionEncoder, info: RepeatsInfo) -> None:
        super().__init__()
        self.scored, self.info, self.max_length = scored, info, scored.max_length

    def forward(self, *inputs: Tensor) -> Tensor:
        """Encode by the encoder itself."""
        interests_BKD: Tensor = self.scored(*inputs)
        return interests_BKD

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the inputs of the encoder itself."""
        return self.scored.inputs(batch)

    def item_vectors(self) -> Tensor:
        """Return the vectors of the encoder itself."""
        return self.scored.item_vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the encoder itself."""
        return self.scored.loss(batch)

    def added_scores(self, batch: Batch) -> Tensor:
        """Return the bonuses_BN, and what the encoder itself adds."""
        rows = len(self.item_vectors())
        added_BN = self.scored.added_scores(batch)
        bonuses_BN = torch.zeros(len(batch.items_BL), rows)
        length = batch.items_BL.shape[1]
        for place in range(length):  # from the oldest, so that the latest event of an item counts
            bonus = self.info.bonuses[min(length - 1 - place, len(self.info.bonuses) - 1)]
            bonuses_BN.scatter_(1, batch.items_BL[:, place : place + 1], bonus)
        bonuses_BN[:, PADDING] = 0
        return bonuses_BN if added_BN is None else added_BN + bonuses_BN
