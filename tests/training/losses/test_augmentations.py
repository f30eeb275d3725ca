"""Each augmentation keeps what it should, and the session itself is unchanged."""

import pytest
import torch
from torch import Tensor

from onward.training.losses.augmentations import Augmentation, augmented_views, crop, mask, reorder

MASK = 99
AUGMENTATION = Augmentation(crop=0.8, mask=0.5, reorder=0.8)
SESSIONS = [[7], [1, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [5, 5, 6, 5, 7]] * 50


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def padded(rows: list[list[int]], length: int = 12) -> Tensor:
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


def unpadded(items_BL: Tensor) -> list[list[int]]:
    """The sessions; padding may stand only before them."""
    rows = [row[row.index(next(filter(None, row))) :] for row in items_BL.tolist()]
    assert not any(0 in row for row in rows)
    return rows


def test_a_crop_is_a_slice_at_any_place_of_the_session() -> None:
    cropped = unpadded(crop(padded(SESSIONS), 0.8))
    for session, kept in zip(SESSIONS, cropped, strict=True):
        stretches = [session[i : i + len(kept)] for i in range(len(session) - len(kept) + 1)]
        assert len(kept) == max(1, int(len(session) * 0.8))
        assert kept in stretches
    assert {kept[0] for kept in cropped[2::4]} == {1, 2, 3}


def test_a_mask_replaces_its_share_of_the_items_and_no_padding() -> None:
    masked = unpadded(mask(padded(SESSIONS), 0.5, MASK))
    for session, left in zip(SESSIONS, masked, strict=True):
        assert left.count(MASK) == len(session) // 2
        assert all(item in (whole, MASK) for whole, item in zip(session, left, strict=True))
    assert {place for left in masked[2::4] for place, item in enumerate(left) if item == MASK} == set(range(10))


def test_reordering_shuffles_one_slice() -> None:
    reordered = unpadded(reorder(padded(SESSIONS), 0.8))
    for session, moved in zip(SESSIONS, reordered, strict=True):
        assert sorted(moved) == sorted(session)
        changed = [place for place, pair in enumerate(zip(session, moved, strict=True)) if pair[0] != pair[1]]
        assert not changed or changed[-1] - changed[0] < int(len(session) * 0.8)
    assert {moved[0] for moved in reordered[2::4]} >= {1, 2, 8}
    assert reordered[1::4] == SESSIONS[1::4]  # of two items the share is one


def test_the_two_views_have_different_augmentations_and_the_session_is_unchanged() -> None:
    items_BL = padded(SESSIONS)
    before_BL = items_BL.clone()
    views = [unpadded(view_BL) for view_BL in augmented_views(items_BL, AUGMENTATION, MASK)]
    torch.testing.assert_close(items_BL, before_BL, atol=0, rtol=0)
    seen = set()
    for session, *altered in zip(SESSIONS, *views, strict=True):
        if len(session) == 10:
            ways = tuple("mask" if MASK in view else "crop" if len(view) < 10 else "reorder" for view in altered)
            assert ways[0] != ways[1]
            seen.add(ways)
    assert len(seen) == 6


def test_a_session_of_one_item_is_not_augmented() -> None:
    for view_BL in augmented_views(padded([[3], [4]]), Augmentation(crop=0.5, mask=1, reorder=1), MASK):
        assert unpadded(view_BL) == [[3], [4]]


def test_views_are_drawn_from_the_global_random_state() -> None:
    views = []
    for _ in range(2):
        torch.manual_seed(9)
        views.append(torch.stack(augmented_views(padded(SESSIONS), AUGMENTATION, MASK)))
    assert torch.equal(*views)
    assert not torch.equal(views[0], torch.stack(augmented_views(padded(SESSIONS), AUGMENTATION, MASK)))
