"""What a deployment makes of the events that it is sent."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from onward.service.errors import EventTooOld
from onward.service.sessions import EventRules, EventWeights
from onward.service.settings import Settings, describe

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_known_types_have_their_weights_and_others_one() -> None:
    kinds = ("view", "cart", "purchase", "like", "impression", "dislike", "share")
    assert [EventWeights().of(kind) for kind in kinds] == [1, 3, 5, 2, 0, -1, 1]


def test_a_deployment_has_its_own_weights_and_they_are_written_as_they_are_read() -> None:
    weights = EventWeights.parse(" share=2.5, skip=-1,view=0,")
    assert [weights.of(kind) for kind in ("share", "skip", "view", "cart", "other")] == [2.5, -1, 0, 3, 1]
    assert EventWeights.parse(str(weights)) == weights
    assert EventWeights.parse("") == EventWeights()


@pytest.mark.parametrize(
    "text", ["share", "share=", "share=much", "Share=1", "a=1,a=2", "a=1001", "a=1e3", "a=nan", "a=1;b=2", "purchase=0"]
)
def test_unusable_weights_stop_the_start_with_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(bundles=tmp_path, event_weights=text)  # type: ignore[arg-type]  # as a variable holds it
    message = describe(refusal.value)
    assert message.startswith("SERVICE_EVENT_WEIGHTS: ")
    assert "Value error" not in message


def test_settings_are_handed_on_to_workers_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        bundles=tmp_path, event_weights=EventWeights.parse("share=2,skip=-0.5"), max_event_age=timedelta(hours=2)
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    read = Settings()  # type: ignore[call-arg]  # the environment gives what has no default
    assert (read.event_weights, read.max_event_age) == (settings.event_weights, settings.max_event_age)


def test_an_event_happens_now_where_no_time_is_given() -> None:
    event = EventRules().event("a", "cart", None, "e", NOW)
    assert event == ("a", "cart", NOW.timestamp() * 1000, "e", 3)


def test_an_event_is_taken_until_its_time_is_over() -> None:
    rules = EventRules(max_age=timedelta(hours=1))
    assert rules.event("a", "view", NOW - timedelta(hours=1), None, NOW).timestamp_ms == NOW.timestamp() * 1000 - 3.6e6
    with pytest.raises(EventTooOld):
        rules.event("a", "view", NOW - timedelta(hours=1, microseconds=1), None, NOW)
