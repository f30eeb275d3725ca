"""Dynamic routing: interest capsules that agree with the votes of the items they are made of.

Source: Sabour et al., "Dynamic Routing between Capsules", NIPS 2017; the softmax over interests, and the gradient
through the last round only, are those of Cen et al., KDD 2020, section 3.2.1, and of their code.
Dimension key: B sessions, L positions, D embedding, K interests in G groups of M that share their votes.
"""

import torch
from torch import Tensor


def squash(vectors: Tensor) -> Tensor:
    """Scale vectors (..., D): a length n becomes n^2 / (1 + n^2)."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * (length / (1 + length.square()))


def route(votes_BGLD: Tensor, logits_BGML: Tensor, valid_BL: Tensor, rounds: int) -> Tensor:
    """Return capsules_BKD: weighted sums of votes, each item's weight divided among the interests that agree with it.

    Args:
        votes_BGLD: each item's vote for the interests of each group.
        logits_BGML: routing logits of the first round; minus infinity where a session has no such interest.
        valid_BL: False at padding.
        rounds: number of routing rounds; after each but the last, the logits grow by the agreement.
    """
    fixed_BGLD = votes_BGLD.detach()
    for _ in range(rounds - 1):
        capsules_BGMD = squash(_shares(logits_BGML, valid_BL) @ fixed_BGLD)
        logits_BGML = logits_BGML + capsules_BGMD @ fixed_BGLD.mT
    return squash(_shares(logits_BGML, valid_BL) @ votes_BGLD).flatten(1, 2)


def _shares(logits_BGML: Tensor, valid_BL: Tensor) -> Tensor:
    """Return the weights of each item in the interests; over the interests they sum to 1, at padding to 0."""
    shares_BKL = logits_BGML.flatten(1, 2).softmax(dim=1) * valid_BL[:, None]
    return shares_BKL.view_as(logits_BGML)
