"""A store that refuses the service is told apart from one that is down; the documented rights suffice."""

import re
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from redis import Redis
from typer.testing import CliRunner

from onward.service.cli import cli
from onward.service.redis_client import StoreCheck, connect
from tests.bundles import publish_bundle
from tests.redis_servers import HOST, RedisServer, redis_servers
from tests.service.process import wait_until
from tests.service.shop import UNHURRIED, opened

ROOT = Path(__file__).parents[3]
TIMEOUT = timedelta(seconds=2)
PASSWORD = "pa-ss"  # noqa: S105
ITEMS = ["a", "b", "c", "d"]

DOCUMENTED = re.compile(r"ACL SETUSER onward on >PASSWORD (resetkeys .*?)```", re.DOTALL)
CALLED = re.compile(r"""call\('([A-Z]+)'|\{'([A-Z]+)'|\("([A-Z]{2,})",""")
STORES = ("sessions", "records", "live")


def documented_rights() -> list[str]:
    match = DOCUMENTED.search((ROOT / "docs" / "deployment.md").read_text())
    assert match is not None
    return match[1].split()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_servers(tmp_path_factory.mktemp("rights"), 1) as (server,):
        yield server


@pytest.fixture
def account(server: RedisServer) -> Iterator[str]:
    """The URL of an account with the documented rights."""
    server.execute("acl", "setuser", "onward", "reset", "on", f">{PASSWORD}", *documented_rights())
    yield f"redis://onward:{PASSWORD}@{server.address}"
    server.execute("acl", "deluser", "onward")


async def fault_of(url: str) -> tuple[str, list[Any]]:
    """Check three times; return what is wrong, and what was logged."""
    with structlog.testing.capture_logs() as log:
        async with aclosing(connect(url, TIMEOUT)) as client:
            check = StoreCheck(client)
            for _ in range(3):
                await check.run()
    return "" if check.fault is None else check.fault.reason, log


async def test_an_account_with_the_documented_rights_is_accepted(account: str) -> None:
    assert await fault_of(account) == ("", [])
    assert await fault_of(f"{account}/3") == ("", [])


async def test_the_check_leaves_nothing_in_the_store(account: str, server: RedisServer) -> None:
    before = server.execute("dbsize")
    await fault_of(account)
    assert server.execute("dbsize") == before


def commands(files: Iterable[Path]) -> set[str]:
    return {name for file in files for names in CALLED.findall(file.read_text()) for name in names if name}


def test_every_command_of_the_stores_is_checked_and_documented() -> None:
    service = ROOT / "service" / "onward" / "service"
    checked = commands([service / "redis_client" / "rights.lua"])
    used = commands(file for folder in STORES for kind in ("*.lua", "*.py") for file in (service / folder).glob(kind))
    assert used <= checked
    assert checked - used == {"ECHO"}
    assert {f"+{name.lower()}" for name in checked} <= set(documented_rights())


@pytest.mark.parametrize(
    ("rights", "what_is_wrong"),
    [
        (["-rename", "-zunionstore"], r"may not run these commands on ~onward:\*: \+rename \+zunionstore"),
        (["-evalsha"], "lacks rights that docs/deployment.md lists"),
        (["resetkeys", "~other:*"], "lacks rights that docs/deployment.md lists"),
        (["resetpass", ">another"], "refuses the user name or password"),
        (["off"], "refuses the user name or password"),
    ],
)
async def test_what_an_account_lacks_is_named_once_and_without_its_password(
    account: str, server: RedisServer, rights: list[str], what_is_wrong: str
) -> None:
    server.execute("acl", "setuser", "onward", *rights)
    reason, log = await fault_of(account)
    assert re.search(what_is_wrong, reason)
    (line,) = log
    assert (line["event"], line["log_level"], line["reason"]) == ("store misconfigured", "error", reason)
    assert PASSWORD not in str(log)


async def test_a_database_that_the_server_does_not_have_is_named(account: str) -> None:
    reason, _ = await fault_of(f"{account}/9999")
    assert "no database of the number" in reason


async def test_a_missing_password_is_named(account: str, server: RedisServer) -> None:
    server.execute("acl", "setuser", "default", "resetpass", ">other")
    try:
        reason, _ = await fault_of(server.url)
    finally:
        with Redis(host=HOST, port=server.port, password="other") as redis:  # noqa: S106
            redis.execute_command("acl", "setuser", "default", "nopass")
    assert "refuses the user name or password" in reason


async def test_an_outage_is_no_fault_and_ends_none(account: str, server: RedisServer) -> None:
    assert await fault_of(f"redis://{HOST}:1") == ("", [])
    async with aclosing(connect(account, TIMEOUT)) as client:
        check = StoreCheck(client)
        server.execute("acl", "setuser", "onward", "-hget")
        await check.run()
        found = check.fault
        assert found is not None
        server.execute("client", "kill", "user", "onward")
        await check.run()
        assert check.fault == found


@pytest.mark.parametrize("command", [["changes"], ["clear", "items", "--yes"]])
def test_commands_say_what_is_wrong(account: str, command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--redis-url", account.replace(PASSWORD, "hidden")])
    assert result.exit_code == 2
    assert "refuses the user name or password" in result.output
    assert "hidden" not in result.output


def test_the_service_is_ready_says_what_is_wrong_and_recovers(
    account: str, server: RedisServer, tmp_path: Path
) -> None:
    publish_bundle(tmp_path, ITEMS)
    server.execute("acl", "setuser", "onward", "-hset")
    with structlog.testing.capture_logs() as log, opened(tmp_path, account, **UNHURRIED) as client:
        wait_until(lambda: "store_misconfigured" in client.get("/health/ready").json())
        ready = client.get("/health/ready")
        assert (ready.status_code, "+hset" in ready.json()["store_misconfigured"]) == (200, True)
        assert "onward_store_misconfigured 1.0" in client.get("/metrics").text
        event = {"session_id": "s", "item_id": "a"}
        assert [client.post("/v1/events", json=event).status_code for _ in range(3)] == [503] * 3
        assert client.post("/v1/recommendations", json={"session_id": "s", "items": ["a"]}).json()["degraded"]
        server.execute("acl", "setuser", "onward", "+hset")
        wait_until(lambda: "store_misconfigured" not in client.get("/health/ready").json())
        assert client.post("/v1/events", json=event).status_code == 200
    events = [line["event"] for line in log]
    for name in ("store misconfigured", "store accepts the service", "session store failed"):
        assert events.count(name) == 1, name
    assert "background work failed" not in events


def test_the_whole_api_works_with_the_documented_rights(account: str, tmp_path: Path) -> None:
    publish_bundle(tmp_path, ITEMS, attributes=[{"price": 1.0}] * len(ITEMS))
    with structlog.testing.capture_logs() as log, opened(tmp_path, account, **UNHURRIED) as client:
        ask = {"session_id": "whole", "items": ["a"], "k": 2, "scenario": "home", "user_id": "u"}
        assert client.put("/v1/scenarios/home", json={"k": 2}).status_code in (200, 201)
        assert (
            client.patch("/v1/items/new", json={"attributes": {"price": 2.0}, "similar_to": ["a"]}).status_code == 200
        )
        assert client.delete("/v1/items/d").status_code == 204
        answer = client.post("/v1/recommendations", json=ask).json()
        assert not answer["degraded"]
        path = f"/v1/recommendations/{answer['recommendation_id']}"
        wait_until(lambda: client.get(f"{path}/explanation").status_code == 200)
        assert client.post(f"{path}/next", json={}).status_code == 200
        bought = {"item_id": answer["items"][0]["id"], "type": "purchase", "value": 2.5, "event_id": "1"}
        event = {"session_id": "whole", "recommendation_id": answer["recommendation_id"], **bought}
        assert client.post("/v1/events", json=event).json()["applied"] == 1
        assert client.post("/v1/sessions/whole:merge", json={"into": "t"}).json()["applied"] == 2
        assert client.get("/v1/sessions/t").json()["count"] == 2
        wait_until(lambda: "clicks" in str(client.get("/v1/metrics/online").json()))
        wait_until(lambda: client.get("/v1/items:popular").status_code == 200)
        assert client.delete("/v1/scenarios/home").status_code == 204
        assert client.delete("/v1/users/u").status_code in (200, 204)
        assert client.delete("/v1/sessions/t").status_code == 204
        assert "store_misconfigured" not in client.get("/health/ready").json()
    for command in (["clear", "items", "--yes"], ["clear", "scenarios", "--yes"], ["changes"]):
        result = CliRunner().invoke(cli, [*command, "--redis-url", account])
        assert result.exit_code == 0, result.output
    assert not [line for line in log if line["log_level"] in ("warning", "error")]
