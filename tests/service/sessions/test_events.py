"""Weights and ages of events follow the settings of a deployment."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from onward.service.errors import EventTooOld
from onward.service.sessions import EventRules, EventWeights
from onward.service.settings import Settings, describe

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_known_types_have_default_weights_and_other_types_weigh_1() -> None:
    kinds = ("view", "cart", "purchase", "like", "impression", "dislike", "share")
    assert [EventWeights().of(kind) for kind in kinds] == [1, 3, 5, 2, 0, -1, 1]


def test_weights_of_a_deployment_are_parsed_and_formatted_alike() -> None:
    weights = EventWeights.parse(" share=2.5, skip=-1,view=0,")
    assert [weights.of(kind) for kind in ("share", "skip", "view", "cart", "other")] == [2.5, -1, 0, 3, 1]
    assert EventWeights.parse(str(weights)) == weights
    assert EventWeights.parse("") == EventWeights()


@pytest.mark.parametrize(
    "text", ["share", "share=", "share=much", "Share=1", "a=1,a=2", "a=1001", "a=1e3", "a=nan", "a=1;b=2", "purchase=0"]
)
def test_invalid_weights_are_a_validation_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(bundles=tmp_path, event_weights=text)  # type: ignore[arg-type]  # text, as in the environment
    message = describe(refusal.value)
    assert message.startswith("SERVICE_EVENT_WEIGHTS: ")
    assert "Value error" not in message


def test_settings_survive_the_environment_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        bundles=tmp_path, event_weights=EventWeights.parse("share=2,skip=-0.5"), max_event_age=timedelta(hours=2)
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    read = Settings()  # type: ignore[call-arg]  # required settings come from the environment
    assert (read.event_weights, read.max_event_age) == (settings.event_weights, settings.max_event_age)


def test_an_event_without_a_time_happens_now() -> None:
    event = EventRules().event("a", "cart", None, "e", NOW)
    assert event == ("a", "cart", NOW.timestamp() * 1000, "e", 3)


def test_an_event_is_accepted_up_to_its_maximum_age() -> None:
    rules = EventRules(max_age=timedelta(hours=1))
    assert rules.event("a", "view", NOW - timedelta(hours=1), None, NOW).timestamp_ms == NOW.timestamp() * 1000 - 3.6e6
    with pytest.raises(EventTooOld):
        rules.event("a", "view", NOW - timedelta(hours=1, microseconds=1), None, NOW)
