"""Keys of a file: scopes of every endpoint, expiry, rotation without a restart, and limits for wrong keys."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient

from onward.service.app import create_app
from onward.service.errors import MissingScope
from onward.service.http.routes.console import CONSOLE_PATHS
from onward.service.http.routes.documentation import DOCUMENTATION_PATHS, FILE_PATHS, ROOT_PATH
from onward.service.http.scopes import SCOPE_OF, require_scope
from onward.service.keys import SCOPES, Key, KeysFileError
from onward.service.settings import IN_MEMORY, Settings
from tests.service.process import wait_until
from tests.service.shop import opened, problem

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
NEED_NO_KEY = {"check_liveness", "check_readiness"}
POPULAR = "/v1/items:popular"
OFTEN: dict[str, Any] = {"reload_interval": timedelta(seconds=0.02)}


def line(secret: str, *scopes: str, **fields: Any) -> str:
    digest = sha256(secret.encode()).hexdigest()
    known = {"name": secret, "digest": digest, "scopes": frozenset(scopes or SCOPES), **fields}
    return Key.model_validate(known).line


def keyed(secret: str) -> dict[str, str]:
    return {"X-API-Key": secret}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    expired = line("expired", expires=datetime.now(UTC) - timedelta(seconds=1))
    file.write_text("\n".join([*(line(scope, scope) for scope in SCOPES), line("all"), expired]))
    return file


@pytest.fixture(scope="module")
def guarded(bundles: Path, keys_file: Path) -> Iterator[TestClient]:
    with opened(bundles, keys_file=keys_file, metrics_access="key", docs_access="key") as client:
        yield client


def endpoints(client: TestClient) -> Iterator[tuple[str, str, str]]:
    """Yield the operation, the method and a path of each endpoint."""
    for included in client.app.routes:  # type: ignore[attr-defined]  # the service
        for route in included.original_router.routes if hasattr(included, "original_router") else [included]:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    yield route.name, method, re.sub("{.*?}", "x", route.path)
            else:
                assert route.path in DOCUMENTATION_PATHS | FILE_PATHS | {ROOT_PATH} | CONSOLE_PATHS


def test_every_endpoint_needs_one_scope(guarded: TestClient) -> None:
    assert {name for name, _, _ in endpoints(guarded)} == SCOPE_OF.keys() | NEED_NO_KEY


def test_the_page_of_the_api_shows_the_scope_of_every_endpoint(guarded: TestClient) -> None:
    table = PAGE.read_text().split("\n## Keys\n")[1].split("\n## ")[0]
    shown = {
        (method, re.sub("{.*?}", "x", path), scope)
        for scope, cell in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
        for method, path in re.findall(r"`([A-Z]+) (\S+)`", cell)
    }
    assert shown == {
        (method, path, SCOPE_OF[name]) for name, method, path in endpoints(guarded) if name not in NEED_NO_KEY
    }


def test_a_key_opens_the_endpoints_of_its_scope_alone(guarded: TestClient) -> None:
    for name, method, path in endpoints(guarded):
        if name in NEED_NO_KEY:
            assert guarded.request(method, path).status_code == 200
            continue
        for scope in SCOPES:
            response = guarded.request(method, path, headers=keyed(scope))
            if scope == SCOPE_OF[name]:
                assert response.status_code not in (401, 403), (name, scope)
            else:
                assert problem(response) == (403, "missing_scope"), (name, scope)
                assert SCOPE_OF[name] in response.json()["detail"]
        assert problem(guarded.request(method, path)) == (401, "missing_key")


def test_an_operation_without_a_scope_is_open_to_no_key() -> None:
    key = Key(name="all", digest="0" * 64, scopes=frozenset(SCOPES))
    with pytest.raises(MissingScope):
        require_scope({"state": {"key": key}}, "an_operation_that_was_forgotten")


def test_a_key_without_the_scope_learns_nothing_of_the_body_it_needs(guarded: TestClient) -> None:
    response = guarded.post("/v1/recommendations", content=b"{", headers=keyed("catalog"))
    assert problem(response) == (403, "missing_scope")


def test_the_openapi_document_names_the_scopes(guarded: TestClient) -> None:
    document = guarded.get("/openapi.json", headers=keyed("events")).json()
    assert document["paths"]["/v1/events"]["post"]["security"] == [{"bearer": ["events"]}, {"header": ["events"]}]


def test_an_expired_key_is_told_so(guarded: TestClient) -> None:
    assert problem(guarded.get(POPULAR, headers=keyed("expired"))) == (403, "expired_key")


def test_a_key_expires_while_the_service_runs(bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(line("short", expires=datetime.now(UTC) + timedelta(seconds=2)))
    with opened(bundles, keys_file=file) as client:
        assert client.get(POPULAR, headers=keyed("short")).status_code == 200
        wait_until(lambda: client.get(POPULAR, headers=keyed("short")).status_code == 403)


def test_keys_are_rotated_without_a_restart(bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(line("first"))
    own = sha256(b"own").hexdigest()
    with opened(bundles, keys_file=file, api_keys=(own,), **OFTEN) as client:
        assert client.get(POPULAR, headers=keyed("first")).status_code == 200
        file.write_text(line("second"))
        wait_until(lambda: client.get(POPULAR, headers=keyed("second")).status_code == 200)
        assert problem(client.get(POPULAR, headers=keyed("first"))) == (403, "wrong_key")
        assert client.get("/v1/version", headers=keyed("own")).status_code == 200


def test_the_last_good_keys_stay_while_the_file_is_broken(bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(line("first"))
    with opened(bundles, keys_file=file, **OFTEN) as client:

        def refused() -> Any:
            return client.get("/health/ready").json().get("refused_keys")

        assert refused() is None
        file.write_text(f"{line('second')}\n{{")
        wait_until(refused)
        assert refused().startswith(f"{file}, line 2: ")
        assert client.get(POPULAR, headers=keyed("first")).status_code == 200
        assert client.get(POPULAR, headers=keyed("second")).status_code == 403
        file.unlink()
        wait_until(lambda: refused() == f"{file}: No such file or directory")
        assert client.get(POPULAR, headers=keyed("first")).status_code == 200
        file.write_text(line("third"))
        wait_until(lambda: client.get(POPULAR, headers=keyed("third")).status_code == 200)
        assert refused() is None


def test_a_file_without_keys_admits_nobody(bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.touch()
    with opened(bundles, keys_file=file) as client:
        assert problem(client.get(POPULAR, headers=keyed("any"))) == (403, "wrong_key")


def test_a_broken_file_is_refused_at_start(bundles: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text("{")
    with pytest.raises(KeysFileError, match="line 1"):
        create_app(Settings(bundles=bundles, redis_url=SecretStr(IN_MEMORY), keys_file=file))


def test_wrong_keys_are_limited_and_counted_and_right_ones_are_not(bundles: Path, keys_file: Path) -> None:
    with opened(bundles, keys_file=keys_file) as client:
        statuses = [client.get(POPULAR, headers=keyed("wrong")).status_code for _ in range(600)]
        assert statuses == [403] * 600
        # 10 more are allowed each second, so a busy machine takes more requests to the limit; a missing key counts too.
        limited = next(response for _ in range(5_000) if (response := client.get(POPULAR)).status_code == 429)
        assert problem(limited) == (429, "too_many_wrong_keys")
        assert limited.headers["retry-after"] == "1"
        assert client.get(POPULAR, headers=keyed("all")).status_code == 200
        counted = client.get("/metrics").text
        assert 'onward_refused_requests_total{code="wrong_key"}' in counted
        assert 'onward_refused_requests_total{code="too_many_wrong_keys"}' in counted


class TestAccess:
    """Who may read the metrics and the documentation."""

    @pytest.mark.parametrize(("path", "setting"), [("/metrics", "metrics_access"), ("/docs", "docs_access")])
    def test_off_means_that_there_is_no_such_path(self, bundles: Path, path: str, setting: str) -> None:
        with opened(bundles, **{setting: "off"}) as client:
            assert problem(client.get(path)) == (404, "not_found")
            if path == "/docs":
                assert client.get("/openapi.json").status_code == 404

    def test_a_key_opens_them(self, guarded: TestClient) -> None:
        assert guarded.get("/metrics", headers=keyed("metrics")).status_code == 200
        assert problem(guarded.get("/metrics")) == (401, "missing_key")
        for path in ("/docs", "/openapi.json"):
            assert guarded.get(path, headers=keyed("events")).status_code == 200
            assert problem(guarded.get(path)) == (401, "missing_key")

    def test_they_are_open_by_default(self, bundles: Path, keys_file: Path) -> None:
        with opened(bundles, keys_file=keys_file) as client:
            assert {client.get(path).status_code for path in ("/metrics", "/docs", "/openapi.json")} == {200}

    @pytest.mark.parametrize("setting", ["metrics_access", "docs_access"])
    def test_asking_for_a_key_where_there_is_none_is_refused(self, bundles: Path, setting: str) -> None:
        with pytest.raises(ValidationError, match=f"SERVICE_{setting.upper()}=key needs keys"):
            Settings.model_validate({"bundles": bundles, setting: "key"})
