"""Altered views of sessions, for encoders that learn to tell a session by what is left of it.

Source: Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022, section 3.2: crop, mask, reorder.
Dimension key: B sessions, L positions, V ways to alter a session.

All work on left-padded rows, draw with torch's global random state and leave their input as it is. A share of a
session is rounded down to whole items.
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from onward.training.data.padding import PADDING

Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(BaseModel):
    """How much of a session each way of altering it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    crop: Share
    """Share that is kept, one stretch of the session."""
    mask: Share
    """Share whose items are hidden."""
    reorder: Share
    """Share that is shuffled, one stretch of the session."""


def augmented_views(items_BL: Tensor, augmentation: Augmentation, mask_row: int) -> tuple[Tensor, Tensor]:
    """Each session altered in one of the three ways, and in another; a session of one item stays as it is twice."""
    altered_VBL = torch.stack(
        [
            crop(items_BL, augmentation.crop),
            mask(items_BL, augmentation.mask, mask_row),
            reorder(items_BL, augmentation.reorder),
        ]
    )
    sessions_B = torch.arange(len(items_BL), device=items_BL.device)
    one_B = torch.randint(3, (len(items_BL),), device=items_BL.device)
    other_B = (one_B + torch.randint(1, 3, (len(items_BL),), device=items_BL.device)) % 3
    alone_B1 = _lengths(items_BL)[:, None] == 1
    one_BL, other_BL = (
        torch.where(alone_B1, items_BL, altered_VBL[chosen_B, sessions_B]) for chosen_B in (one_B, other_B)
    )
    return one_BL, other_BL


def crop(items_BL: Tensor, share: float) -> Tensor:
    """A stretch of each session, left-padded again; of at least one item."""
    kept_B1, first_B1 = _stretch(items_BL, share, at_least=1)
    length = items_BL.shape[1]
    places_L = torch.arange(length, device=items_BL.device)
    sources_BL = first_B1 + kept_B1 - length + places_L
    return items_BL.gather(1, sources_BL.clamp(0, length - 1)).masked_fill(places_L < length - kept_B1, PADDING)


def mask(items_BL: Tensor, share: float, mask_row: int) -> Tensor:
    """Each session with some of its items replaced by `mask_row`."""
    hidden_B = (_lengths(items_BL) * share).long()
    chance_BL = torch.rand(items_BL.shape, device=items_BL.device).masked_fill(items_BL == PADDING, torch.inf)
    order_BL = chance_BL.argsort(dim=1).argsort(dim=1)
    return items_BL.masked_fill(order_BL < hidden_B[:, None], mask_row)


def reorder(items_BL: Tensor, share: float) -> Tensor:
    """Each session with a stretch of it shuffled."""
    moved_B1, first_B1 = _stretch(items_BL, share, at_least=0)
    places_L = torch.arange(items_BL.shape[1], device=items_BL.device)
    inside_BL = (places_L >= first_B1) & (places_L < first_B1 + moved_B1)
    shuffled_BL = first_B1 + moved_B1 * torch.rand(items_BL.shape, device=items_BL.device)
    return items_BL.gather(1, torch.where(inside_BL, shuffled_BL, places_L.float()).argsort(dim=1, stable=True))


def _lengths(items_BL: Tensor) -> Tensor:
    return (items_BL != PADDING).sum(dim=1)


def _stretch(items_BL: Tensor, share: float, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Length and first place of a random stretch of each session, each as a column."""
    lengths_B = _lengths(items_BL)
    taken_B = (lengths_B * share).long().clamp(min=at_least)
    skipped_B = (torch.rand(lengths_B.shape, device=items_BL.device) * (lengths_B - taken_B + 1)).long()
    return taken_B[:, None], (items_BL.shape[1] - lengths_B + skipped_B)[:, None]
