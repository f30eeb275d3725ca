"""A training step as `onward.training.trainer` runs it."""

from collections.abc import Sequence

import torch

from onward.training.data.examples import Batch
from onward.training.models.encoder import SessionEncoder


def training_step(encoder: SessionEncoder, optimizers: Sequence[torch.optim.Optimizer], batch: Batch) -> float:
    """Update the encoder on a batch with the optimizers; return the loss before the update."""
    loss = encoder.loss(batch)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
