import polars as pl
import pytest

from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.errors import InputError
from tests.training.data.conftest import START_MS, Prepare, log, shown

MINUTE_MS = 60_000


def clicks(user: str, minutes: list[int]) -> pl.DataFrame:
    times = [START_MS + MINUTE_MS * minute for minute in minutes]
    return pl.DataFrame({"user_id": user, "item_id": [f"{user}{minute}" for minute in minutes], "timestamp": times})


def test_a_session_ends_after_a_longer_pause_than_the_gap(prepared: Prepare) -> None:
    events = pl.concat([clicks("a", [90, 0, 30, 61]), clicks("b", [10, 41])])
    assert shown(prepared(events), "train") == {
        "b-0": "b10",
        "a-0": "a0 *a30",
        "b-1": "b41",
        "a-1": "a61 *a90",
    }
    longer = prepared(events, gap_ms=31 * MINUTE_MS)
    assert shown(longer, "train") == {"b-0": "b10 *b41", "a-0": "a0 *a30 *a61 *a90"}


def test_session_ids_take_precedence_over_users_unless_a_gap_is_set(prepared: Prepare) -> None:
    events = clicks("a", [0, 1, 2]).with_columns(session_id=pl.Series([1, 1, 2]))
    assert shown(prepared(events), "train") == {"1": "a0 *a1", "2": "a2"}
    assert shown(prepared(events, gap_ms=5 * MINUTE_MS), "train") == {"a-0": "a0 *a1 *a2"}


def test_rows_in_any_order_give_the_same_dataset(prepared: Prepare) -> None:
    events = log({"s1": "a b c", "s2": "b c", "s3": "c a"})
    shuffled = prepared(events.sample(fraction=1, shuffle=True, seed=4))
    assert shuffled.info.fingerprint == prepared(events).info.fingerprint


def test_equal_times_keep_the_order_of_the_input(prepared: Prepare) -> None:
    events = pl.DataFrame(
        {"session_id": 1, "item_id": list("cabdab"), "timestamp": [START_MS + 5] * 3 + [START_MS] * 3}
    )
    assert shown(prepared(events), "train") == {"1": "d *a *b *c *a *b"}


def test_a_position_column_orders_a_session_and_time_orders_sessions(prepared: Prepare) -> None:
    events = pl.DataFrame(
        {
            "session_id": ["late", "late", "early", "early"],
            "item_id": ["b", "a", "d", "c"],
            "position": [2, 1, 8, 7],
            "timestamp": [START_MS + 9, START_MS + 9, START_MS, START_MS],
        }
    )
    assert shown(prepared(events), "train") == {"early": "c *d", "late": "a *b"}


def test_without_times_sessions_keep_the_order_of_the_input(prepared: Prepare) -> None:
    events = pl.DataFrame({"session_id": ["z", "a", "z", "a"], "item_id": list("wxyz")})
    assert shown(prepared(events), "train") == {"z": "w *y", "a": "x *z"}


def test_column_names_can_be_given(prepared: Prepare) -> None:
    events = log({"s1": "a b"}).rename({"session_id": "who", "item_id": "what", "timestamp": "when"})
    columns = {"session": "who", "item": "what", "time": "when"}
    assert shown(prepared(events, columns=columns), "train") == {"s1": "a *b"}
    with pytest.raises(InputError, match="there is no column 'nobody'; the columns are who, what, when"):
        prepared(events, columns={"session": "nobody"})


def test_a_history_holds_all_events_of_a_user(prepared: Prepare) -> None:
    events = clicks("a", [0, 1, 500, 1000]).with_columns(session_id=pl.Series([1, 1, 2, 3]))
    assert shown(prepared(events, SplitKind.LEAVE_ONE_OUT), "test") == {"a": "a0 a1 a500 *a1000"}
