"""Impressions without a click become weak negatives of the events that follow them."""

from itertools import pairwise

import polars as pl
import pytest

from onward.training.data.dataset import Dataset, PartName
from onward.training.data.newest_sessions import write_newest_sessions
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.data.preparation.shown_items import PER_EVENT
from tests.training.data.conftest import Prepare, log

SERVED = {"s1": "a b.shown c.shown b d.shown c", "s2": "d.shown b a e.shown", "s3": "d x.shown a"}


def served(sessions: dict[str, str] = SERVED, minutes_apart: int = 60) -> pl.DataFrame:
    """A log in which "a.shown" is an impression of a, and "a" a view."""
    events, item = log(sessions, minutes_apart=minutes_apart), pl.col("item_id")
    kind = pl.when(item.str.ends_with(".shown")).then(pl.lit("impression")).otherwise(pl.lit("view"))
    return events.with_columns(item.str.replace(".shown", "", literal=True), event=kind)


def before_events(data: Dataset, part: PartName = "train") -> dict[str, str] | None:
    """Return {"s1-1 b": "d"}: session, position and item of an event, and the items that were shown before it."""
    sessions = data.sessions(part)
    if sessions.shown is None:
        return None
    lengths = [end - start for start, end in pairwise(sessions.offsets.tolist())]
    places = [
        (name, place) for name, length in zip(sessions.session_ids, lengths, strict=True) for place in range(length)
    ]
    ids = ["", *data.item_ids()]
    shown = [
        " ".join(ids[row] for row in sessions.shown.rows[start:end]) for start, end in pairwise(sessions.shown.offsets)
    ]
    names = [f"{name}-{place} {item}" for (name, place), item in zip(places, sessions.item_ids, strict=True)]
    return {name: of for name, of in zip(names, shown, strict=True) if of}


def test_an_impression_belongs_to_the_next_event_of_its_session(prepared: Prepare) -> None:
    data = prepared(served(), test=log({"t": "a b"}))
    assert before_events(data) == {"s1-2 c": "d", "s2-0 b": "d"}
    account = data.info.account
    assert account is not None
    assert "2 impressions without a click are weak negatives of training" in account.remarks
    assert data.info.dropped == {"event type impression": 6}


def test_of_users_the_next_event_must_follow_within_the_idle_time(prepared: Prepare) -> None:
    rows = served({"u": "a d.shown b"}).rename({"session_id": "user_id"})
    late = rows.with_columns(timestamp=pl.col("timestamp") + 60_000 * pl.Series([0, 60, 120]))
    soon = rows.with_columns(pl.lit("v").alias("user_id"))
    other = served({"w": "d a"}).rename({"session_id": "user_id"})
    data = prepared(pl.concat([late, soon, other]), min_length=1, gap_ms=30 * 60_000)
    assert before_events(data) == {"v-0-1 b": "d"}


def test_the_newest_impressions_of_an_event_are_kept(prepared: Prepare) -> None:
    many = [f"i{number}" for number in range(PER_EVENT + 3)]
    data = prepared(served({"s": "a " + " ".join(f"{item}.shown" for item in many) + " b", "t": " ".join(many)}))
    shown = before_events(data)
    assert shown is not None
    assert set(shown["s-1 b"].split()) == set(many[3:])


@pytest.mark.parametrize("weights", [None, {"view": 1.0}, {"view": 1.0, "impression": 0.0}])
def test_weights_of_types_may_leave_impressions_out(prepared: Prepare, weights: dict[str, float] | None) -> None:
    assert before_events(prepared(served(), weights=weights)) == {"s1-2 c": "d", "s2-0 b": "d"}


def test_a_log_without_impressions_has_none(prepared: Prepare) -> None:
    data = prepared(served({"s1": "a b", "s2": "b a"}))
    assert before_events(data) is None
    assert not list(data.folder.glob("*_shown.parquet"))


def test_validation_sessions_have_impressions_of_their_own(prepared: Prepare) -> None:
    assert before_events(prepared(served(), validation=0.5), "validation") is None
    data = prepared(served({**SERVED, "s3": "d e.shown a", "s4": "e a"}), SplitKind.GIVEN, validation=0.5)
    assert before_events(data, "validation") == {"s3-1 a": "e"}
    assert before_events(data) == {"s1-2 c": "d", "s2-0 b": "d"}


def test_impressions_are_part_of_the_fingerprint(prepared: Prepare) -> None:
    without = served().filter(pl.col("event") == "view")
    assert prepared(served()).info.fingerprint != prepared(without).info.fingerprint


def test_the_newest_sessions_keep_theirs(prepared: Prepare) -> None:
    data = prepared(served())
    write_newest_sessions(data, 0.67, data.folder.parent / "newest")
    assert before_events(Dataset.open(data.folder.parent / "newest")) == {"s2-0 b": "d"}
