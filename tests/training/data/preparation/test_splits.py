import polars as pl
import pytest

from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.data.synthetic import generate
from onward.training.errors import InputError
from tests.training.data.conftest import DAY_MS, START_MS, Prepare, log, shown
from tests.training.data.readers.oracle import srgnn_split

LOG_COLUMNS = ["session_id", "item_id", "timestamp"]


def test_given_parts_are_unchanged_and_unknown_test_items_have_row_0(prepared: Prepare) -> None:
    dataset = prepared(log({"s1": "a b a", "s2": "c"}), test=log({"t1": "b new a"}))
    assert shown(dataset, "train") == {"s1": "a *b *a", "s2": "c"}
    assert shown(dataset, "test") == {"t1": "b *new *a"}
    assert dataset.sessions("test").rows.tolist() == [2, 0, 1]
    assert len(dataset.sessions("validation")) == 0


def test_rows_follow_the_first_appearance_in_training_then_validation(prepared: Prepare) -> None:
    dataset = prepared(log({"s1": "d b", "s2": "b c", "s3": "e a", "s4": "a d"}), validation=0.5)
    assert shown(dataset, "validation") == {"s3": "e *a", "s4": "a *d"}
    assert dataset.item_ids() == ["d", "b", "c", "e", "a"]
    assert dataset.popularity().tolist() == [0, 2, 2, 1, 1, 2]


def test_validation_is_the_most_recent_training_sessions(prepared: Prepare) -> None:
    events = log({f"s{number}": "a b" for number in range(10)}).sort("timestamp", descending=True)
    dataset = prepared(events, validation=0.2)
    assert list(shown(dataset, "train")) == [f"s{number}" for number in range(8)]
    assert list(shown(dataset, "validation")) == ["s8", "s9"]


def test_temporal_split_follows_srgnn(prepared: Prepare) -> None:
    """Short sessions, then rare items, then sessions left short; unseen test items, then test sessions left short."""
    sessions = {
        "single": "b",  # dropped first, so it does not support b
        "s1": "a c",
        "s2": "a b c",  # b has one event left, so it is rare
        "s3": "c b2 b3",  # nothing but c is left
        "late1": "a new c",
        "late2": "new a",
        "late3": "new new",
    }
    events = log(sessions, minutes_apart=24 * 60)
    dataset = prepared(events, SplitKind.TEMPORAL, min_support=2, test_days=2.9)
    assert shown(dataset, "train") == {"s1": "a *c", "s2": "a *c"}
    assert shown(dataset, "test") == {"late1": "a *c"}
    assert dataset.info.dropped == {
        "in short sessions": 1,
        "of rare items": 3,
        "in sessions left short": 1,
        "test items unseen in training": 4,
        "in test sessions left short": 1,
    }


def test_temporal_split_of_a_shop_equals_that_of_plain_lists(prepared: Prepare) -> None:
    events = generate(5_000, seed=6).events
    clicks = [(session, item, time, time) for session, item, time in events.select(LOG_COLUMNS).iter_rows()]
    train, test = srgnn_split(clicks, test_span=3 * DAY_MS, min_support=5)
    dataset = prepared(events, SplitKind.TEMPORAL, min_support=5, test_days=3)
    assert {session: items.replace("*", "").split() for session, items in shown(dataset, "train").items()} == train
    assert {session: items.replace("*", "").split() for session, items in shown(dataset, "test").items()} == test
    assert list(shown(dataset, "test")) == sorted(test, key=[session for session, *_ in clicks][::-1].index)[::-1]


def test_a_session_that_ends_at_the_split_moment_is_on_neither_side(prepared: Prepare) -> None:
    """If times are whole days, as in Diginetica, the sessions of the split day are dropped."""
    days = {"s1": 0, "s2": 1, "s3": 8, "s4": 9, "s5": 9}
    rows = [(session, item, START_MS + day * DAY_MS) for session, day in days.items() for item in "ab"]
    events = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp"], orient="row")
    dataset = prepared(events, SplitKind.TEMPORAL, test_days=1)
    assert list(shown(dataset, "train")) == ["s1", "s2"]
    assert list(shown(dataset, "test")) == ["s4", "s5"]
    assert dataset.info.dropped == {"in sessions that ended at the split moment": 2}


def test_leave_one_out_keeps_the_validation_item_in_the_history_at_test_time(prepared: Prepare) -> None:
    events = log({"u1": "a b c d", "u2": "b a a", "short": "a b"}).rename({"session_id": "user_id"})
    dataset = prepared(events, SplitKind.LEAVE_ONE_OUT)
    assert shown(dataset, "train") == {"u1": "a *b", "u2": "b"}
    assert shown(dataset, "validation") == {"u1": "a b *c", "u2": "b *a"}
    assert shown(dataset, "test") == {"u1": "a b c *d", "u2": "b a *a"}
    assert dataset.item_ids() == ["a", "b", "c"]
    assert dataset.popularity().tolist() == [0, 2, 2, 1]
    assert dataset.info.parts["test"].examples == 2


def test_split_by_user_holds_out_whole_users_with_their_last_fifth_as_targets(prepared: Prepare) -> None:
    histories = {f"u{number}": " ".join(f"i{place}" for place in range(6 + number % 5)) for number in range(20)}
    dataset = prepared(log(histories), SplitKind.BY_USER, seed=3)
    parts = {part: shown(dataset, part) for part in ("train", "validation", "test")}
    assert {part: len(sessions) for part, sessions in parts.items()} == {"train": 16, "validation": 2, "test": 2}
    assert set().union(*parts.values()) == set(histories)
    for history in (*parts["validation"].values(), *parts["test"].values()):
        items = history.split()
        assert [item.startswith("*") for item in items] == [n >= int(0.8 * len(items)) for n in range(len(items))]
    assert dataset.info.targets == "together"
    assert dataset.info.parts["test"].examples == 2


def test_split_by_user_counts_an_item_before_short_histories_are_dropped(prepared: Prepare) -> None:
    """Then the users are counted by what is left of their histories."""
    lasting = {f"u{number}": "a b c d e" for number in range(8)}
    histories = {
        **lasting,
        "rare": "a b c d rare e",
        "short": "f f",
        "long": "a b c d f",  # f has three events
        "left-short": "a b c d once",
    }
    dataset = prepared(log(histories), SplitKind.BY_USER, min_support=3)
    parts = [shown(dataset, part) for part in ("train", "validation", "test")]
    events = {user: items.replace("*", "") for part in parts for user, items in part.items()}
    assert events == {**lasting, "rare": "a b c d e", "long": "a b c d f"}
    assert dataset.info.dropped == {"in short sessions": 2, "of rare items": 2, "in sessions left short": 4}


def test_the_seed_alone_decides_which_users_are_held_out(prepared: Prepare) -> None:
    events = log({f"u{number}": "a b c d e" for number in range(50)})
    held_out = [list(shown(prepared(events, SplitKind.BY_USER, seed=seed), "test")) for seed in (1, 1, 2)]
    assert held_out[0] == held_out[1] != held_out[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": SplitKind.GIVEN, "test_days": 7}, "--test-days belongs to --split temporal"),
        ({"split": SplitKind.BY_USER, "gap_ms": 1}, "leave out --gap"),
        ({"split": SplitKind.LEAVE_ONE_OUT, "min_length": 2}, "needs at least 3"),
        ({"split": SplitKind.TEMPORAL, "test": log({"t": "a b"})}, "leave out --test or --split"),
        ({"split": SplitKind.TEMPORAL, "min_support": 100}, "no session is left: dropped events: 4 of rare items"),
    ],
)
def test_options_that_leave_no_data_are_refused(prepared: Prepare, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(log({"s1": "a b", "s2": "a b"}), **options)  # type: ignore[arg-type]  # one table, many types
