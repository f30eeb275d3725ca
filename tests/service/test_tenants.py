"""Tenants share the bundle and the catalog; what one does, no other tenant sees."""

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis import Redis
from typer.testing import CliRunner

from onward.service import parts
from onward.service.cli import cli
from onward.service.server.embedded_store import find_servers, run_server
from onward.service.settings import IN_MEMORY
from onward.service.tenants import TENANT, key_prefix
from tests.service.http.test_scopes import keyed, line
from tests.service.process import wait_until
from tests.service.shop import UNHURRIED, opened, problem, publish_shop

TENANTS = st.none() | st.from_regex(TENANT, fullmatch=True)
NAMES = st.text(st.sampled_from("ab:{}-/tenan"), max_size=12)
STORED = ("session:{%s}:events", "session:{%s}:served", "{%s}:state", "{%s}:minute:7")
"""How the names of keys go on after the tenant's prefix; ids in them are digests, but need not be for this."""


@given(TENANTS, TENANTS, NAMES, NAMES, st.sampled_from(STORED), st.sampled_from(STORED))
def test_no_two_tenants_share_a_key_of_the_store(
    one: str | None, other: str | None, name: str, other_name: str, part: str, other_part: str
) -> None:
    assume(one != other)
    assert key_prefix(one) + part % name != key_prefix(other) + other_part % other_name


def test_the_deployment_itself_keeps_the_keys_of_earlier_versions() -> None:
    assert key_prefix(None) == "onward:"


@pytest.mark.parametrize("tenant", ["", "a:b", "A", "a" * 33, "a\n", "ä", "{a}"])
def test_a_name_that_could_collide_is_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        key_prefix(tenant)


async def test_what_was_opened_for_a_tenant_that_cannot_be_opened_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def open_or_fail(_shared: Any, tenant: str, running: AsyncExitStack) -> dict[str, Any]:
        running.callback(closed.append, tenant)
        if tenant == "bad":
            raise OSError("its folder cannot be made")
        return {}

    monkeypatch.setattr(parts, "open_tenant", open_or_fail)
    async with AsyncExitStack() as running:
        tenants = parts.Tenants(None, running)  # type: ignore[arg-type]  # only handed on
        for _ in range(2):
            with pytest.raises(OSError, match="folder"):
                await tenants.open(["bad"])
        assert closed == ["bad", "bad"]
        await tenants.open(["good"])
        assert tenants.parts == {"good": {}}
    assert closed == ["bad", "bad", "good"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_server(find_servers()[0]) as url:
        yield url


@pytest.fixture(scope="module", params=["memory", "redis"])
def callers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: str) -> Iterator[Any]:
    """One service; called with a tenant's name, return a function that calls it with a key of that tenant."""
    folder = tmp_path_factory.mktemp("tenants")
    publish_shop(folder)
    keys, log = folder / "keys.jsonl", folder / "log"
    log.mkdir()
    keys.write_text("\n".join([line("own"), line("a", tenant="a"), line("b", tenant="b")]))
    url = IN_MEMORY if request.param == "memory" else server
    settings = {"keys_file": keys, "event_log": log, "reload_interval": timedelta(seconds=0.02), **UNHURRIED}
    with opened(folder, url, **settings) as client:

        def as_tenant(key: str) -> Callable[..., Any]:
            return lambda method, path, **more: client.request(method, path, headers=keyed(key), **more)

        as_tenant.folder, as_tenant.url, as_tenant.keys = folder, url, keys  # type: ignore[attr-defined]  # for the tests
        yield as_tenant


def test_a_session_is_seen_by_its_tenant_alone(callers: Any) -> None:
    query = {"session_id": "visitor", "items": ["item-1", "item-2"], "k": 3}
    assert callers("a")("POST", "/v1/recommendations", json=query).status_code == 200
    assert callers("a")("GET", "/v1/sessions/visitor").json()["count"] == 2
    for other in ("b", "own"):
        assert problem(callers(other)("GET", "/v1/sessions/visitor")) == (404, "session_not_found")
        assert callers(other)("GET", "/v1/sessions/visitor/recommendations").json()["items"][0]["source"] == "popular"
        assert callers(other)("DELETE", "/v1/sessions/visitor").status_code == 204
        merged = callers(other)("POST", "/v1/sessions/visitor:merge", json={"into": "mine"})
        assert merged.json()["applied"] == 0
    assert callers("a")("GET", "/v1/sessions/visitor").json()["count"] == 2
    event = {"session_id": "visitor", "item_id": "item-3", "event_id": "e"}
    assert callers("b")("POST", "/v1/events", json=event).json()["applied"] == 1
    assert callers("a")("POST", "/v1/events", json=event).json()["applied"] == 1


def test_an_answer_is_continued_and_explained_by_its_tenant_alone(callers: Any) -> None:
    query = {"session_id": "reader", "items": ["item-1"], "k": 3}
    answer = callers("a")("POST", "/v1/recommendations", json=query).json()["recommendation_id"]
    for other in ("b", "own"):
        assert problem(callers(other)("POST", f"/v1/recommendations/{answer}/next")) == (
            404,
            "recommendation_not_found",
        )
        explanation = callers(other)("GET", f"/v1/recommendations/{answer}/explanation")
        assert problem(explanation) == (404, "recommendation_not_found")
    assert callers("a")("POST", f"/v1/recommendations/{answer}/next").json()["count"] == 3
    assert callers("a")("GET", f"/v1/recommendations/{answer}/explanation").status_code == 200


def test_a_scenario_is_used_by_its_tenant_alone(callers: Any) -> None:
    assert callers("a")("PUT", "/v1/scenarios/page", json={"k": 2}).status_code == 200
    assert callers("own")("PUT", "/v1/scenarios/page", json={"k": 7}).json()["version"] == 1
    query = {"items": ["item-1"], "scenario": "page"}
    assert callers("a")("POST", "/v1/recommendations", json=query).json()["count"] == 2
    assert problem(callers("b")("POST", "/v1/recommendations", json=query)) == (422, "scenario_not_found")
    assert callers("b")("GET", "/v1/scenarios").json()["count"] == 0
    assert problem(callers("b")("DELETE", "/v1/scenarios/page")) == (404, "scenario_not_found")
    assert callers("a")("GET", "/v1/scenarios/page").json()["options"] == {"k": 2}


def test_what_is_counted_is_the_tenants_own(callers: Any) -> None:
    answer = callers("a")("POST", "/v1/recommendations", json={"session_id": "buyer", "items": ["item-1"], "k": 3})
    clicked = answer.json()["items"][0]["id"]
    event = {"session_id": "buyer", "item_id": clicked, "type": "purchase"}
    event["recommendation_id"] = answer.json()["recommendation_id"]
    assert callers("a")("POST", "/v1/events", json=event).json()["applied"] == 1

    def outcomes(key: str) -> list[Any]:
        report: list[Any] = callers(key)("GET", "/v1/metrics/online").json()["outcomes"]
        return report

    wait_until(lambda: any(outcome["purchases"] == 1 for outcome in outcomes("a")))
    assert all(outcome["purchases"] == 0 for outcome in outcomes("b"))


def test_what_is_popular_is_the_tenants_own(callers: Any) -> None:
    for number in range(20):
        event = {"session_id": f"fan-{number}", "item_id": "item-40", "type": "purchase"}
        assert callers("a")("POST", "/v1/events", json=event).json()["applied"] == 1

    def most_popular(key: str) -> Any:
        return callers(key)("GET", "/v1/items:popular?k=1").json()["items"][0]["id"]

    wait_until(lambda: most_popular("a") == "item-40")
    assert "item-40" not in (most_popular("b"), most_popular("own"))


def test_the_event_log_of_a_tenant_has_a_folder_of_its_own(callers: Any) -> None:
    event = {"session_id": "logged-by-b", "item_id": "item-5"}
    callers("b")("POST", "/v1/events", json=event)

    def sessions(folder: Path) -> set[str]:
        return {
            json.loads(text)["session_id"] for file in folder.glob("events-*") for text in file.read_text().splitlines()
        }

    log = callers.folder / "log"
    wait_until(lambda: "logged-by-b" in sessions(log / "b"))
    assert "logged-by-b" not in sessions(log) | sessions(log / "a")


def test_a_user_is_erased_by_the_users_tenant_alone(callers: Any) -> None:
    query = {"user_id": "u", "session_id": "of-u", "items": ["item-1"]}
    assert callers("a")("POST", "/v1/recommendations", json=query).status_code == 200
    assert callers("b")("DELETE", "/v1/users/u").status_code == 204
    assert callers("a")("GET", "/v1/sessions/of-u").status_code == 200
    assert callers("a")("DELETE", "/v1/users/u").status_code == 204
    assert callers("a")("GET", "/v1/sessions/of-u").status_code == 404


def test_the_catalog_is_shared(callers: Any) -> None:
    assert callers("a")("PATCH", "/v1/items/item-9", json={"available": False}).status_code == 200
    assert callers("b")("GET", "/v1/items/item-9").json()["available"] is False


def test_a_tenant_is_opened_when_its_first_key_appears(callers: Any) -> None:
    with callers.keys.open("a") as file:
        file.write(f"\n{line('new', tenant='new')}")
    wait_until(lambda: callers("new")("GET", "/v1/items:popular").status_code == 200)
    assert problem(callers("new")("GET", "/v1/sessions/visitor")) == (404, "session_not_found")


def test_keys_of_a_tenant_in_the_store_begin_with_its_prefix(callers: Any) -> None:
    if callers.url == IN_MEMORY:
        pytest.skip("nothing is stored")
    with Redis.from_url(callers.url) as redis:
        before = set(redis.scan_iter())
        callers("b")("POST", "/v1/recommendations", json={"session_id": "stored", "items": ["item-1"]})
        wait_until(lambda: len([key for key in set(redis.scan_iter()) - before if b":session:" in key]) >= 3)
        added = {key for key in set(redis.scan_iter()) - before if b":session:" in key}
    assert all(key.startswith(b"onward:tenant:b:session:{") for key in added)


def test_scenarios_of_a_tenant_are_cleared_alone(callers: Any) -> None:
    if callers.url == IN_MEMORY:
        pytest.skip("another process cannot clear them")
    for key in ("a", "b"):
        callers(key)("PUT", "/v1/scenarios/cleared", json={"k": 2})
    arguments = ["clear", "scenarios", "--yes", "--redis-url", callers.url]
    assert CliRunner().invoke(cli, [*arguments, "--tenant", "A"]).exit_code == 2
    assert CliRunner().invoke(cli, ["clear", "items", *arguments[2:], "--tenant", "a"]).exit_code == 2
    assert CliRunner().invoke(cli, [*arguments, "--tenant", "a"]).exit_code == 0
    wait_until(lambda: callers("a")("GET", "/v1/scenarios").json()["count"] == 0)
    assert callers("b")("GET", "/v1/scenarios/cleared").status_code == 200
