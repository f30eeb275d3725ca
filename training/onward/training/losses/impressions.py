"""The loss of impressions without a click: weak negatives.

Dimension key: B examples of a batch, S items that were shown before each target.
"""

import torch.nn.functional as F
from torch import Tensor

from onward.training.losses.softmax import weighted_mean


def impression_loss(target_B: Tensor, shown_BS: Tensor, *, counts_BS: Tensor, weights_B: Tensor | None) -> Tensor:
    """Compute the logistic loss of pairs: a target should score above each item that was shown and not taken.

    It is the mean over the pairs of a target, 0 without any, and then over the batch, in nats.

    Args:
        target_B: score of the true next item.
        shown_BS: scores of the items that were shown before it.
        counts_BS: False where there is none.
        weights_B: factors of the targets' losses; None for 1.

    Source: Joachims, "Optimizing Search Engines using Clickthrough Data", KDD 2002, section 3: a clicked result is
    preferred to those that were seen and skipped.
    """
    losses_BS = F.softplus(shown_BS - target_B[:, None]) * counts_BS
    return weighted_mean(losses_BS.sum(dim=1) / counts_BS.sum(dim=1).clamp(min=1), weights_B)
