"""Augmented views of sessions, for contrastive learning.

Source: Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022, section 3.2: crop, mask, reorder.
Dimension key: B sessions, L positions, V augmentations.

All functions take left-padded rows, draw from torch's global random state and do not modify their input. A share of a
session is rounded down to whole items.
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from onward.training.data.padding import PADDING

Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(BaseModel):
    """The share of a session that each augmentation changes or keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    crop: Share
    """Share that is kept, a contiguous slice."""
    mask: Share
    """Share of the items that is masked."""
    reorder: Share
    """Share that is shuffled, a contiguous slice."""


def augmented_views(items_BL: Tensor, augmentation: Augmentation, mask_row: int) -> tuple[Tensor, Tensor]:
    """Return two views of each session by two different augmentations; a session of one item is returned unchanged."""
    augmented_VBL = torch.stack(
        [
            crop(items_BL, augmentation.crop),
            mask(items_BL, augmentation.mask, mask_row),
            reorder(items_BL, augmentation.reorder),
        ]
    )
    sessions_B = torch.arange(len(items_BL), device=items_BL.device)
    first_choice_B = torch.randint(3, (len(items_BL),), device=items_BL.device)
    second_choice_B = (first_choice_B + torch.randint(1, 3, (len(items_BL),), device=items_BL.device)) % 3
    is_single_B1 = _lengths(items_BL)[:, None] == 1
    first_view_BL, second_view_BL = (
        torch.where(is_single_B1, items_BL, augmented_VBL[chosen_B, sessions_B])
        for chosen_B in (first_choice_B, second_choice_B)
    )
    return first_view_BL, second_view_BL


def crop(items_BL: Tensor, share: float) -> Tensor:
    """Keep a random slice of each session, of at least one item, left-padded again."""
    kept_B1, first_B1 = _random_slice(items_BL, share, at_least=1)
    length = items_BL.shape[1]
    places_L = torch.arange(length, device=items_BL.device)
    sources_BL = first_B1 + kept_B1 - length + places_L
    return items_BL.gather(1, sources_BL.clamp(0, length - 1)).masked_fill(places_L < length - kept_B1, PADDING)


def mask(items_BL: Tensor, share: float, mask_row: int) -> Tensor:
    """Replace some items of each session by `mask_row`."""
    hidden_B = (_lengths(items_BL) * share).long()
    chance_BL = torch.rand(items_BL.shape, device=items_BL.device).masked_fill(items_BL == PADDING, torch.inf)
    order_BL = chance_BL.argsort(dim=1).argsort(dim=1)
    return items_BL.masked_fill(order_BL < hidden_B[:, None], mask_row)


def reorder(items_BL: Tensor, share: float) -> Tensor:
    """Shuffle a random slice of each session."""
    moved_B1, first_B1 = _random_slice(items_BL, share, at_least=0)
    places_L = torch.arange(items_BL.shape[1], device=items_BL.device)
    inside_BL = (places_L >= first_B1) & (places_L < first_B1 + moved_B1)
    shuffled_BL = first_B1 + moved_B1 * torch.rand(items_BL.shape, device=items_BL.device)
    return items_BL.gather(1, torch.where(inside_BL, shuffled_BL, places_L.float()).argsort(dim=1, stable=True))


def _lengths(items_BL: Tensor) -> Tensor:
    return (items_BL != PADDING).sum(dim=1)


def _random_slice(items_BL: Tensor, share: float, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Return length and first position of a random slice of each session, each as a column."""
    lengths_B = _lengths(items_BL)
    taken_B = (lengths_B * share).long().clamp(min=at_least)
    skipped_B = (torch.rand(lengths_B.shape, device=items_BL.device) * (lengths_B - taken_B + 1)).long()
    return taken_B[:, None], (items_BL.shape[1] - lengths_B + skipped_B)[:, None]
