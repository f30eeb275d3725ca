"""Calls: what is sent for each operation, and whether it may be sent again when nobody knows if it was done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote
from uuid import uuid4

from onward_client.schemas import (
    EventBody,
    EventsStored,
    EventStored,
    Explanation,
    Item,
    ItemBody,
    ItemEntry,
    ItemList,
    ItemResults,
    MergedSession,
    NextQuery,
    OnlineMetricsReport,
    RecommendationQuery,
    RecommendationResults,
    Recommendations,
    ScenarioBody,
    StoredScenario,
    StoredScenarios,
    StoredSession,
    Version,
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """A call that gives a Result; `is_repeatable` if doing it twice has the effect of doing it once."""

    method: str
    path: str
    body: Any = None
    query: Mapping[str, Any] | None = None
    if_match: str | None = None
    is_repeatable: bool = True


def with_id(event: EventBody) -> EventBody:
    """Return an event with an id, by which the service applies it once, however often it is sent."""
    return event if event.get("event_id") else cast(EventBody, {**event, "event_id": uuid4().hex})


def recommend(query: RecommendationQuery) -> Call[Recommendations]:
    """Recommend; what appends items to a session would append them again."""
    return Call("POST", "/v1/recommendations", query, is_repeatable=not _appends(query))


def recommend_for_many(queries: Sequence[RecommendationQuery]) -> Call[RecommendationResults]:
    """Answer several queries."""
    is_repeatable = not any(map(_appends, queries))
    return Call("POST", "/v1/recommendations:batch", {"requests": [*queries]}, is_repeatable=is_repeatable)


def next_page(recommendation_id: str, options: NextQuery) -> Call[Recommendations]:
    """Return the next page of an answer; a second call would return the page after it."""
    return Call("POST", f"/v1/recommendations/{_escaped(recommendation_id)}/next", options, is_repeatable=False)


def explain(recommendation_id: str, why_not: str | None) -> Call[Explanation]:
    """Explain an answer."""
    return Call("GET", f"/v1/recommendations/{_escaped(recommendation_id)}/explanation", query=_given(why_not=why_not))


def similar_items(item_id: str, **options: Any) -> Call[ItemList]:
    """List the items that are similar to an item."""
    return Call("GET", f"/v1/items/{_escaped(item_id)}/similar", query=_given(**options))


def popular_items(**options: Any) -> Call[ItemList]:
    """List popular items."""
    return Call("GET", "/v1/items:popular", query=_given(**options))


def record_event(event: EventBody) -> Call[EventStored]:
    """Record an event."""
    return Call("POST", "/v1/events", with_id(event))


def record_events(events: Sequence[EventBody]) -> Call[EventsStored]:
    """Record several events."""
    return Call("POST", "/v1/events", {"events": [with_id(event) for event in events]})


def show_session(session_id: str) -> Call[StoredSession]:
    """Show what is stored of a session."""
    return Call("GET", f"/v1/sessions/{_escaped(session_id)}")


def merge_session(session_id: str, into: str) -> Call[MergedSession]:
    """Merge a session into another one."""
    return Call("POST", f"/v1/sessions/{_escaped(session_id)}:merge", {"into": into})


def delete_session(session_id: str) -> Call[None]:
    """Erase a session."""
    return Call("DELETE", f"/v1/sessions/{_escaped(session_id)}")


def erase_user(user_id: str) -> Call[None]:
    """Erase a user's sessions and answers."""
    return Call("DELETE", f"/v1/users/{_escaped(user_id)}")


def show_item(item_id: str) -> Call[Item]:
    """Show an item."""
    return Call("GET", f"/v1/items/{_escaped(item_id)}")


def change_item(item_id: str, changes: ItemBody) -> Call[Item]:
    """Change or add an item."""
    return Call("PATCH", f"/v1/items/{_escaped(item_id)}", changes)


def change_items(changes: Sequence[ItemEntry]) -> Call[ItemResults]:
    """Change or add several items."""
    return Call("POST", "/v1/items:batch", {"items": [*changes]})


def delete_item(item_id: str) -> Call[None]:
    """Delete an item; a second call would not find it."""
    return Call("DELETE", f"/v1/items/{_escaped(item_id)}", is_repeatable=False)


def list_scenarios() -> Call[StoredScenarios]:
    """List all scenarios."""
    return Call("GET", "/v1/scenarios")


def show_scenario(name: str) -> Call[StoredScenario]:
    """Show a scenario."""
    return Call("GET", f"/v1/scenarios/{_escaped(name)}")


def store_scenario(name: str, version: int | None, options: ScenarioBody) -> Call[StoredScenario]:
    """Store options under a name; a second call would find another version than the first."""
    return Call(
        "PUT", f"/v1/scenarios/{_escaped(name)}", options, if_match=_etag(version), is_repeatable=version is None
    )


def delete_scenario(name: str, version: int | None) -> Call[None]:
    """Delete a scenario; a second call would not find it."""
    return Call("DELETE", f"/v1/scenarios/{_escaped(name)}", if_match=_etag(version), is_repeatable=False)


def show_online_metrics(window_s: float, by: Sequence[str]) -> Call[OnlineMetricsReport]:
    """Report what answers led to."""
    return Call("GET", "/v1/metrics/online", query=_given(window=f"{window_s:.6f}", by=",".join(by) or None))


def show_version() -> Call[Version]:
    """Report the version of the service and of its bundle."""
    return Call("GET", "/v1/version")


def _appends(query: RecommendationQuery) -> bool:
    """Return whether a query appends items to a session."""
    stores = query.get("store", True) and not query.get("dry_run", False)
    return bool(query.get("items")) and query.get("session_id") is not None and stores


def _escaped(name: str) -> str:
    return quote(name, safe="")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _etag(version: int | None) -> str | None:
    return None if version is None else f'"{version}"'
