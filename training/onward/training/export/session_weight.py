"""Choose on validation how much the votes of nearest sessions count beside a network's scores."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from onward.training.data.dataset import Dataset
from onward.training.data.examples import Batch, Examples
from onward.training.evaluation.validation import validation_metrics
from onward.training.models.encoder import SessionEncoder
from onward.training.models.ensemble import Ensemble
from onward.training.models.nearest_sessions import NearestSessionsEncoder
from onward.training.trained_run import FittedRun, fitted_to_training

SESSION_WEIGHTS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
DEFAULT_WEIGHT = 0.5
MAX_EXAMPLES = 5_000


def choose_session_weight(
    networks: Sequence[Path], nearest: Path, dataset: Dataset, on_step: Callable[[str], object]
) -> float:
    """Return the weight of nearest sessions that gives the best validation metric of the first network's recipe.

    The encoders compared are those of the fits to the training part alone; a refit has seen the validation examples.
    Without such fits or examples the weight is `DEFAULT_WEIGHT`, which is announced.
    """
    members = [fitted_to_training(run, dataset) for run in (*networks, nearest)]
    fitted = [member for member in members if member is not None]
    sessions = fitted[-1].encoder if fitted else None
    examples = None if not isinstance(sessions, NearestSessionsEncoder) else validation_examples(dataset, fitted)
    if len(fitted) < len(members) or not isinstance(sessions, NearestSessionsEncoder) or not examples:
        on_step(f"nearest sessions: weight {DEFAULT_WEIGHT}, as there is nothing to choose it by on validation")
        return DEFAULT_WEIGHT
    recipe = fitted[0].recipe
    metric = recipe.training.validation_metric
    network = Ensemble([member.encoder for member in fitted[:-1]])

    def measured(weight: float) -> float:
        encoder = WithSessions(network, sessions, weight)
        return validation_metrics(encoder, examples, metric, exclude_seen=recipe.serving.exclude_seen_in(dataset))[
            metric
        ]

    figures = {weight: measured(weight) for weight in SESSION_WEIGHTS}
    best = max(figures, key=figures.__getitem__)
    on_step(f"nearest sessions: weight {best}, validation {metric} {figures[best]:.4f}, without {measured(0):.4f}")
    return best


class WithSessions(SessionEncoder):
    """A network whose scores are added to the votes of nearest sessions."""

    def __init__(self, network: SessionEncoder, nearest: NearestSessionsEncoder, weight: float) -> None:
        super().__init__()
        self.network, self.nearest, self.weight = network, nearest, weight
        self.max_length = max(network.max_length, nearest.max_length)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode by the network."""
        interests_BKD: Tensor = self.network(items_BL)
        return interests_BKD

    def item_vectors(self) -> Tensor:
        """Return the network's vectors."""
        return self.network.item_vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the network's loss."""
        return self.network.loss(batch)

    def added_scores(self, batch: Batch) -> Tensor | None:
        """Return the weighted votes."""
        return self.weight * self.nearest.added_scores(batch) if self.weight else None


def validation_examples(dataset: Dataset, members: Sequence[FittedRun]) -> Examples:
    """Return examples of the validation part, evenly over time."""
    length = max(member.encoder.max_length for member in members)
    together = dataset.info.targets == "together"
    examples = Examples.of([dataset.sessions("validation")], length, torch.device("cpu"), together=together)
    if together or len(examples) <= MAX_EXAMPLES:
        return examples
    return examples.subset(torch.linspace(0, len(examples) - 1, MAX_EXAMPLES).long())
