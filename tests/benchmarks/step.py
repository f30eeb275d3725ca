"""A step of training as `onward.training.trainer` takes it."""

from collections.abc import Sequence

import torch

from onward.training.data.examples import Batch
from onward.training.models.encoder import SessionEncoder


def take_step(encoder: SessionEncoder, optimizers: Sequence[torch.optim.Optimizer], batch: Batch) -> float:
    """Lower the loss on a batch by one step of the optimizers, and return what it was."""
    loss = encoder.loss(batch)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
