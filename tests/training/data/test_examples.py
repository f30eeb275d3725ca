"""The examples of sessions: their inputs, targets, users and seen items."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions, ShownItems
from onward.training.data.examples import Batch, Examples
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.errors import InputError
from tests.training.corpora import sessions
from tests.training.data.conftest import Prepare, log

CPU = torch.device("cpu")
SESSIONS = {"u1": "a b c d", "u2": "b c d e", "u3": "c a b"}
USERS = {"session_id": "user_id"}
HISTORIES = log(SESSIONS).rename(USERS)


def examples_of(parts: Sequence[Sessions], max_length: int = 10, **options: int) -> Examples:
    return Examples.of(parts, max_length, CPU, **options)  # type: ignore[arg-type]  # horizon, or a truth value


def gathered(examples: Examples) -> Batch:
    return examples.gather(torch.arange(len(examples)))


def pairs(examples: Examples) -> list[tuple[list[int], list[int]]]:
    """Input and targets of every example, without padding."""
    batch = gathered(examples)
    return [
        ([item for item in items if item], [item for item in targets if item])
        for items, targets in zip(batch.items_BL.tolist(), batch.targets_BT.tolist(), strict=True)
    ]


def test_every_prefix_is_an_example() -> None:
    assert pairs(examples_of([sessions([1, 2, 3], [4], [5, 5])])) == [([1], [2]), ([1, 2], [3]), ([5], [5])]


def test_the_input_of_a_long_prefix_is_its_newest_items() -> None:
    assert pairs(examples_of([sessions([1, 2, 3, 4, 5])], 2)) == [
        ([1], [2]),
        ([1, 2], [3]),
        ([2, 3], [4]),
        ([3, 4], [5]),
    ]


def test_inputs_are_padded_on_the_left_and_never_shorter_than_two() -> None:
    examples = examples_of([sessions([1, 2, 3, 4])])
    assert gathered(examples).items_BL.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert examples.gather(torch.tensor([0])).items_BL.tolist() == [[0, 1]]


def test_only_targets_make_examples() -> None:
    part = sessions([1, 2, 3, 4], [5, 6, 7])
    part.is_target[[1, 4, 5]] = False
    assert pairs(examples_of([part])) == [([1, 2], [3]), ([1, 2, 3], [4]), ([5, 6], [7])]


def test_a_target_without_an_item_before_it_is_no_example() -> None:
    part = sessions([1, 2], [3, 4])
    part.is_target[:] = True
    assert pairs(examples_of([part])) == [([1], [2]), ([3], [4])]


def test_examples_do_not_cross_parts() -> None:
    parts = [sessions([1, 2]), sessions([3, 4, 5])]
    assert pairs(examples_of(parts, horizon=3)) == [([1], [2]), ([3], [4, 5]), ([3, 4], [5])]


def weighted(*rows: list[int], weights: list[float]) -> Sessions:
    return replace(sessions(*rows), weights=np.array(weights, np.float32))


def target_weights(part: Sessions, **options: int) -> list[list[float]] | None:
    feedback = gathered(examples_of([part], weigh_targets=True, **options)).feedback_BT
    return None if feedback is None or feedback.weights is None else feedback.weights.tolist()


def test_targets_carry_the_weights_of_their_events_with_a_mean_of_one() -> None:
    part = weighted([1, 2, 3], [4, 5], weights=[9, 1, 3, 9, 5])
    third = 1 / 3
    assert target_weights(part) == [[pytest.approx(third)], [1], [pytest.approx(5 * third)]]
    (first, second), last = target_weights(part, horizon=2)[0], target_weights(part, every_position=True)[0]  # type: ignore[index]
    assert [first, second] == last == [pytest.approx(third), 1]
    batch = gathered(examples_of([part], weigh_targets=True))
    assert batch.next_feedback_B is not None
    assert batch.next_feedback_B.weights is not None
    assert batch.next_feedback_B.weights.tolist() == [pytest.approx(third), 1, pytest.approx(5 * third)]


def test_equal_weights_and_those_not_asked_for_are_no_work() -> None:
    assert target_weights(weighted([1, 2, 3], weights=[5, 2, 2])) is None
    assert target_weights(sessions([1, 2, 3])) is None
    assert gathered(examples_of([weighted([1, 2, 3], weights=[1, 2, 3])])).feedback_BT is None


def test_items_that_were_shown_before_targets_come_with_them() -> None:
    shown = ShownItems(np.array([7, 8, 9, 6]), np.array([0, 1, 3, 3, 3, 4]))
    first, second = replace(sessions([1, 2, 3], [4, 5]), shown=shown), sessions([3, 2])

    def rows(**options: int) -> list[list[list[int]]] | None:
        feedback = gathered(examples_of([second, first], **options)).feedback_BT
        return None if feedback is None or feedback.shown is None else feedback.shown.tolist()

    assert rows() is None
    assert rows(impression_weight=1) == [[[0, 0]], [[8, 9]], [[0, 0]], [[6, 0]]]
    assert rows(impression_weight=1, every_position=True)[1] == [[8, 9], [0, 0]]  # type: ignore[index]
    assert gathered(examples_of([second], impression_weight=1)).feedback_BT is None


def test_weights_come_from_the_log(prepared: Prepare) -> None:
    events = log(SESSIONS).with_columns(event=pl.lit("view"))
    is_bought = pl.int_range(pl.len()) == 1
    events = events.with_columns(event=pl.when(is_bought).then(pl.lit("buy")).otherwise("event"))
    data = prepared(events, weights={"view": 1, "buy": 5})
    assert examples_of([data.sessions("train")], weigh_targets=True).weights is not None
    weights = data.sessions("train").weights
    assert weights is not None
    assert sorted(weights) == [1] * 10 + [5]
    assert prepared(events).sessions("train").weights is None


def test_a_horizon_gives_the_next_items_up_to_the_end_of_the_session() -> None:
    examples = examples_of([sessions([1, 2, 3, 4], [5, 6])], horizon=2)
    assert pairs(examples) == [([1], [2, 3]), ([1, 2], [3, 4]), ([1, 2, 3], [4]), ([5], [6])]
    batch = gathered(examples)
    assert batch.targets_BT.tolist() == [[2, 3], [3, 4], [4, 0], [6, 0]]
    assert batch.next_items_B.tolist() == [2, 3, 4, 6]


def test_with_every_position_a_session_is_one_window_with_a_target_after_each_item() -> None:
    examples = examples_of([sessions([1, 2, 3, 4], [5], [6, 7])], every_position=True)
    batch = gathered(examples)
    assert batch.items_BL.tolist() == [[1, 2, 3], [0, 0, 6]]
    assert batch.targets_BT.tolist() == [[2, 3, 4], [0, 0, 7]]


def test_a_long_session_is_cut_into_windows_from_its_end_and_has_every_target_once() -> None:
    examples = examples_of([sessions([1, 2, 3, 4, 5, 6, 7, 8])], 3, every_position=True)
    assert pairs(examples) == [([5, 6, 7], [6, 7, 8]), ([2, 3, 4], [3, 4, 5]), ([1], [2])]


def test_with_every_position_only_targets_are_targets() -> None:
    part = sessions([1, 2, 3, 4])
    part.is_target[2] = False
    batch = gathered(examples_of([part], every_position=True))
    assert batch.items_BL.tolist() == [[1, 2, 3]]
    assert batch.targets_BT.tolist() == [[2, 0, 4]]


def test_targets_together_share_the_input_before_the_first_target() -> None:
    part = sessions([1, 2, 3, 4], [5, 6, 7, 8])
    part.is_target[[1, 5, 6]] = False
    examples = examples_of([part], together=True)
    assert pairs(examples) == [([1, 2], [3]), ([1, 2], [4]), ([5, 6, 7], [8])]
    assert examples.groups_E.tolist() == [0, 0, 1]


def test_an_item_is_a_target_of_its_session_once_if_targets_are_together() -> None:
    part = sessions([1, 2, 2, 1, 2], [2, 2])
    part.is_target[[1]] = False
    assert pairs(examples_of([part], together=True)) == [([1, 2], [2]), ([1, 2], [1]), ([2], [2])]
    assert len(examples_of([part])) == 4


def test_a_batch_holds_the_users_of_its_sessions() -> None:
    parts = [sessions([1, 2], [3, 4, 5], users=[8, 0]), sessions([6, 7], users=[9])]
    for every_position, users in ((False, [8, 0, 0, 9]), (True, [8, 0, 9])):
        examples = examples_of(parts, every_position=every_position)
        assert gathered(examples).users_B.tolist() == users


def test_seen_is_the_whole_session_even_if_the_input_is_shorter() -> None:
    examples = examples_of([sessions([1, 2, 3, 4], [5, 6])], 1)
    assert gathered(examples).items_BL.tolist() == [[0, 1], [0, 2], [0, 3], [0, 5]]
    assert examples.seen(torch.arange(4)).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 5]]


def test_a_subset_keeps_the_given_order() -> None:
    examples = examples_of([sessions([1, 2, 3, 4])])
    chosen = examples.subset(torch.tensor([2, 0]))
    assert pairs(chosen) == [([1, 2, 3], [4]), ([1], [2])]
    assert chosen.groups_E.tolist() == examples.groups_E[[2, 0]].tolist()


def test_an_epoch_has_every_example_once_in_batches_of_similar_length_shuffled_by_the_seed() -> None:
    examples = examples_of([sessions(*([*range(1, length + 2)] for length in range(1, 12)))])
    batches = examples.shuffled_batches(5, seed=1, epoch=0)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(examples)))
    lengths = examples.ends_E - examples.starts_E
    assert sum(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= lengths.max()
    again, later, other = (examples.shuffled_batches(5, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0)))
    assert all(map(torch.equal, batches, again))
    assert not all(map(torch.equal, batches, later))
    assert not all(map(torch.equal, batches, other))


def starred(part: Sessions) -> dict[str, str]:
    """The sessions as {"s1": "a *b *c"}, with a star at each target."""
    words = ["*" * bool(target) + item for item, target in zip(part.item_ids, part.is_target, strict=True)]
    cuts = zip(part.offsets[:-1], part.offsets[1:], strict=True)
    return {session: " ".join(words[start:end]) for session, (start, end) in zip(part.session_ids, cuts, strict=True)}


def test_training_and_validation_are_both_parts_with_nothing_held_out(prepared: Prepare) -> None:
    by_time = prepared(log(SESSIONS), SplitKind.TEMPORAL, validation=0.5, test_share=0.1).training_and_validation()
    assert [starred(part) for part in by_time] == [{"u1": "a *b *c *d"}, {"u2": "b *c *d *e"}]
    as_given = prepared(
        log(SESSIONS), SplitKind.GIVEN, validation=0.34, test=log({"u4": "a b"})
    ).training_and_validation()
    assert [starred(part) for part in as_given] == [{"u1": "a *b *c *d", "u2": "b *c *d *e"}, {"u3": "c *a *b"}]


def test_with_leave_one_out_the_validation_histories_include_training(prepared: Prepare) -> None:
    (known,) = prepared(HISTORIES, SplitKind.LEAVE_ONE_OUT).training_and_validation()
    assert starred(known) == {"u1": "a *b *c", "u2": "b *c *d", "u3": "c *a"}
    assert known.users.tolist() == [1, 2, 3]


def test_with_split_by_user_a_validation_user_has_a_whole_history_and_no_row(prepared: Prepare) -> None:
    dataset = prepared(log({f"u{n}": "a b c d e" for n in range(10)}).rename(USERS), SplitKind.BY_USER)
    train, validation = dataset.training_and_validation()
    assert set(starred(train).values()) == set(starred(validation).values()) == {"a *b *c *d *e"}
    assert dataset.users() == list(starred(train))
    assert train.users.tolist() == list(range(1, 9))
    assert validation.users.tolist() == [0]
    assert Corpus.of(dataset, [train, validation]).users == 8


@pytest.mark.parametrize("split", [SplitKind.TEMPORAL, SplitKind.GIVEN])
def test_sessions_have_no_users(split: SplitKind, prepared: Prepare) -> None:
    dataset = prepared(log(SESSIONS), split)
    assert dataset.users() == []
    assert not dataset.sessions("train").users.any()
    assert Corpus.of(dataset, dataset.training_and_validation()).users == 0


def test_without_validation_there_is_the_training_part_only(prepared: Prepare) -> None:
    (train,) = prepared(log(SESSIONS), validation=0.0).training_and_validation()
    assert starred(train) == {"u1": "a *b *c *d", "u2": "b *c *d *e", "u3": "c *a *b"}


def histories_of(*lengths: int) -> Sessions:
    """Histories of these lengths, all of different items."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return sessions(*([*range(end - length + 1, end + 1)] for length, end in zip(lengths, ends, strict=True)))


def test_a_random_cut_has_the_items_before_it_as_input() -> None:
    """Of the histories 1..6 and 7..13 the inputs have at least four items, and at most the five newest."""
    examples = examples_of([histories_of(6, 7)], 5)
    cuts = torch.cat(examples.random_cuts(2, 50, 4, seed=1, epoch=0)).unique()
    assert pairs(examples.subset(cuts)) == [
        ([1, 2, 3, 4], [5]),
        ([1, 2, 3, 4, 5], [6]),
        ([7, 8, 9, 10], [11]),
        ([7, 8, 9, 10, 11], [12]),
        ([8, 9, 10, 11, 12], [13]),
    ]


def test_each_batch_of_random_cuts_has_different_users_sampled_alike_however_long_their_histories() -> None:
    """The users of 5, 8 and 40 items are in two of three places equally often; the one of 3 items never is."""
    parts = [histories_of(5, 3), histories_of(40, 8)]
    examples = examples_of(parts)
    batches = examples.random_cuts(2, 3_000, 4, seed=1, epoch=0)
    assert [len(batch) for batch in batches] == [2] * 3_000
    begins = examples.begins_E[torch.stack(batches)]
    assert (begins[:, 0] != begins[:, 1]).all()
    users, counts = begins.unique(return_counts=True)
    assert users.tolist() == [0, 8, 48]
    assert counts.tolist() == pytest.approx([2_000] * 3, rel=0.05)


def test_the_cuts_of_a_history_are_equally_likely() -> None:
    """Of eight items the fifth to the eighth are targets."""
    examples = examples_of([histories_of(8)])
    cuts, counts = torch.cat(examples.random_cuts(1, 4_000, 4, seed=3, epoch=0)).unique(return_counts=True)
    assert gathered(examples.subset(cuts)).next_items_B.tolist() == [5, 6, 7, 8]
    assert counts.tolist() == pytest.approx([1_000] * 4, rel=0.1)


def test_a_batch_of_random_cuts_has_all_users_if_there_are_too_few() -> None:
    (batch,) = examples_of([histories_of(5, 6, 7)]).random_cuts(128, 1, 4, seed=1, epoch=0)
    assert len(batch) == 3


def test_random_cuts_depend_on_seed_and_epoch_only() -> None:
    examples = examples_of([histories_of(*range(5, 60))])
    one, again, later, other = (
        torch.stack(examples.random_cuts(16, 5, 4, seed, epoch)) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    assert not torch.equal(one, other)


def test_without_a_history_that_is_long_enough_there_are_no_random_cuts() -> None:
    with pytest.raises(InputError, match=r"fewest_items: no session has 4 items before a target"):
        examples_of([histories_of(3, 4)]).random_cuts(2, 5, 4, seed=1, epoch=0)
