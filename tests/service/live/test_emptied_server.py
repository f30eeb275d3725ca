"""Deleted items stay deleted and scenarios known while Redis is emptied or restarted, until they are cleared."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from typer.testing import CliRunner

from onward.service.cli import cli
from tests.redis_servers import RedisServer, redis_servers
from tests.service.process import wait_until
from tests.service.shop import UNHURRIED, ids, opened, problem, publish_shop, recommend

DELETED = "item-7"
QUERY = {"items": ["item-1"], "k": 59}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_shop(folder)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_servers(tmp_path, 1) as (server,):
        yield server


@contextmanager
def changed_shop(shop: Path, server: RedisServer) -> Iterator[TestClient]:
    """Run the service on a server, with one item deleted and one scenario stored."""
    with opened(shop, server.url, **UNHURRIED) as client:
        assert client.delete(f"/v1/items/{DELETED}").status_code == 204
        assert client.put("/v1/scenarios/cart", json={"k": 3}).status_code == 200
        yield client


def assert_changes_apply(client: TestClient) -> None:
    assert DELETED not in ids(recommend(client, **QUERY))
    assert recommend(client, items=["item-1"], scenario="cart")["count"] == 3


def is_stored(server: RedisServer) -> bool:
    keys = [f"onward:{{{name}}}:values" for name in ("items", "scenarios")]
    return [server.execute("hlen", key) for key in keys] == [1, 1]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_changes_survive_an_emptied_server(shop: Path, server: RedisServer, *, is_restarted: bool) -> None:
    with changed_shop(shop, server) as client:
        if is_restarted:
            server.kill()
            assert_changes_apply(client)
            server.start()
        else:
            server.execute("flushall")
        while not is_stored(server):
            assert_changes_apply(client)
        assert_changes_apply(client)
        assert client.get("/v1/scenarios/cart").headers["etag"] == '"1"'
    with opened(shop, server.url, **UNHURRIED) as restarted:
        wait_until(lambda: restarted.get("/v1/scenarios/cart").status_code == 200)
        assert_changes_apply(restarted)


def test_the_command_clears_items_and_scenarios_of_a_running_service(shop: Path, server: RedisServer) -> None:
    lost = lost_entries()
    with changed_shop(shop, server) as client:
        arguments = ["clear", "items", "--redis-url", server.url]
        declined = CliRunner().invoke(cli, arguments, input="n\n")
        assert declined.exit_code == 1
        assert is_stored(server)
        cleared = CliRunner().invoke(cli, [*arguments, "--yes"])
        assert (cleared.exit_code, cleared.output) == (0, "removed 1 items\n")
        wait_until(lambda: DELETED in ids(recommend(client, **QUERY)))
        assert recommend(client, items=["item-1"], scenario="cart")["count"] == 3
        cleared = CliRunner().invoke(cli, ["clear", "scenarios", "--redis-url", server.url], input="y\n")
        assert cleared.output.endswith("removed 1 scenarios\n")
        wait_until(lambda: client.get("/v1/scenarios/cart").status_code == 404)
        refused = client.post("/v1/recommendations", json={"items": ["item-1"], "scenario": "cart"})
        assert problem(refused) == (422, "scenario_not_found")
    assert lost_entries() == lost


@pytest.mark.parametrize("url", ["unix:///nowhere/socket", "memory://", "http://127.0.0.1"])
def test_an_unusable_server_cannot_be_cleared(url: str) -> None:
    result = CliRunner().invoke(cli, ["clear", "items", "--redis-url", url, "--yes"])
    assert result.exit_code == 2
    assert result.output.startswith("error: --redis-url: ")
    assert result.output.count("\n") == 1


def lost_entries() -> list[float | None]:
    return [REGISTRY.get_sample_value("onward_lost_live_entries_total", {"what": w}) for w in ("items", "scenarios")]
