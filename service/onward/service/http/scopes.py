"""Scopes: what a key must be allowed to do for each endpoint."""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.types import Scope as Request

from onward.service.errors import MissingScope
from onward.service.keys import Key, Scope

KEY = "key"
"""Name under which the state of a request holds the caller's key, if the deployment asks for one."""

SCOPE_OF: Mapping[str, Scope] = MappingProxyType(
    {
        "recommend": "recommend",
        "recommend_for_many": "recommend",
        "recommend_for_session": "recommend",
        "recommend_more": "recommend",
        "explain": "recommend",
        "explain_item": "recommend",
        "similar_items": "recommend",
        "popular_items": "recommend",
        "record_events": "events",
        "merge_session": "events",
        "list_items": "catalog",
        "list_unseen_items": "catalog",
        "show_item": "catalog",
        "change_item": "catalog",
        "delete_item": "catalog",
        "change_items": "catalog",
        "list_scenarios": "catalog",
        "show_scenario": "catalog",
        "store_scenario": "catalog",
        "delete_scenario": "catalog",
        "list_sessions": "admin",
        "show_session_history": "admin",
        "read_session": "admin",
        "delete_session": "admin",
        "erase_user": "admin",
        "show_online_metrics": "admin",
        "list_bundles": "admin",
        "show_bundle": "admin",
        "show_bundle_data": "admin",
        "recommend_from_bundle": "admin",
        "activate_bundle": "admin",
        "roll_back_bundle": "admin",
        "protect_bundle": "admin",
        "remove_bundle": "admin",
        "show_audit": "admin",
        "show_live_metrics": "metrics",
        "show_exposure": "metrics",
        "start_job": "admin",
        "list_jobs": "admin",
        "show_job": "admin",
        "cancel_job": "admin",
        "show_version": "metrics",
        "show_metrics": "metrics",
    }
)
"""The scope that each operation needs, by operation id; without a key nothing is needed."""


def require_scope(request: Request, operation: str) -> None:
    """Raise MissingScope if the caller's key may not be used for an operation; if it has no scope, no key may."""
    key: Key | None = request["state"].get(KEY)
    if key is not None and (scope := SCOPE_OF.get(operation)) not in key.scopes:
        raise MissingScope(f"This needs a key with the scope {scope}.")
