"""Corpora and batches for encoders that are not trained."""

import torch

from onward.training.data.examples import Batch
from onward.training.data.small_corpus import corpus, sessions

__all__ = ["batch", "corpus", "sessions"]


def batch(inputs: list[list[int]], targets: list[int], users: list[int] | None = None) -> Batch:
    """A batch of these inputs and next items."""
    length = max(2, *map(len, inputs))
    return Batch(
        items_BL=torch.tensor([[0] * (length - len(items)) + items for items in inputs]),
        targets_BT=torch.tensor(targets)[:, None],
        users_B=torch.tensor(users if users is not None else [0] * len(inputs)),
    )
