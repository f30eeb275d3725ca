"""Split sessions into training, validation and test. Pure functions of lazy frames, the same for every engine.

Events have session_number, session_id, length and ended_ms (of their session), position, item_id and timestamp_ms;
the events of a part also have `is_target`.
"""

from dataclasses import dataclass

import narwhals as nw

from onward.training.data.readers.engine import Frame

HAS_PREDECESSOR = nw.col("position") > 0


@dataclass(frozen=True)
class Split:
    """The parts of a dataset; validation and test are None if they are not held out."""

    train: Frame
    validation: Frame | None
    test: Frame | None
    known: Frame
    """Every event of training and validation once: what a model may know. `held_out` marks those of validation."""


def by_session_number(train: Frame, test: Frame | None, validation_from: int | None) -> Split:
    """Split whole sessions: validation is the sessions of `train` from number `validation_from` on."""
    number = nw.col("session_number")
    recent = number < 0 if validation_from is None else number >= validation_from
    train = train.with_columns(HAS_PREDECESSOR.alias("is_target"))
    return Split(
        train=train.filter(~recent),
        validation=None if validation_from is None else train.filter(recent),
        test=None if test is None else test.with_columns(HAS_PREDECESSOR.alias("is_target")),
        known=train.with_columns(recent.alias("held_out")),
    )


def before(events: Frame, split_ms: int) -> Frame:
    """Return the events of sessions that ended before `split_ms`."""
    return events.filter(nw.col("ended_ms") < split_ms)


def after(events: Frame, split_ms: int) -> Frame:
    """Return the events of sessions that ended after `split_ms`; one that ended exactly then is on neither side."""
    return events.filter(nw.col("ended_ms") > split_ms)


def leave_one_out(histories: Frame) -> Split:
    """Hold out the last event of each history as the test target, the one before it as the validation target."""
    from_end = nw.col("length") - nw.col("position")
    last, last_but_one = from_end == 1, from_end == 2
    seen = histories.filter(~last)
    return Split(
        train=seen.filter(~last_but_one).with_columns(HAS_PREDECESSOR.alias("is_target")),
        validation=seen.with_columns(last_but_one.alias("is_target")),
        test=histories.with_columns(last.alias("is_target")),
        known=seen.with_columns(last_but_one.alias("held_out")),
    )


def by_user(histories: Frame, places: Frame, train_users: int, validation_users: int) -> Split:
    """Split whole users: `places` (session_number, place) is a random permutation of them.

    The first users are training, the next validation, the others test. Of each held-out history, the first
    int(0.8 * n) events are input and the rest are targets.
    """
    histories = histories.join(places, on="session_number", how="inner")
    train = nw.col("place") < train_users
    test = nw.col("place") >= train_users + validation_users
    inputs = nw.col("length") * 4 // 5
    held_out = histories.with_columns((nw.col("position") >= inputs).alias("is_target"))
    return Split(
        train=histories.filter(train).with_columns(HAS_PREDECESSOR.alias("is_target")),
        validation=held_out.filter(~train, ~test),
        test=held_out.filter(test),
        known=histories.filter(~test).with_columns((~train).alias("held_out")),
    )
