"""Invalid requests are refused with a 4xx problem document that names the location and echoes no value."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

KIB = 2**10
TOO_LONG = "x" * 129
RECOMMENDATIONS, EVENTS = "/v1/recommendations", "/v1/events"

EVENT: dict[str, Any] = {"session_id": "s", "item_id": "a"}


def refused(client: TestClient, method: str, path: str, status: int, code: str, **request: Any) -> dict[str, Any]:
    response = client.request(method, path, **request)
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["status"] == status
    return problem


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"items": None}, "items"),
        ({"items": "a"}, "items"),
        ({"items": [1]}, "items.0"),
        ({"items": ["a", True]}, "items.1"),
        ({"items": [""]}, "items.0"),
        ({"items": ["a\x07"]}, "items.0"),
        ({"items": ["a\n"]}, "items.0"),
        ({"items": ["\x00"]}, "items.0"),
        ({"items": ["e\u0301"]}, "items.0"),
        ({"items": ["\ud800"]}, "items.0"),
        ({"items": [TOO_LONG]}, "items.0"),
        ({"items": ["a"] * 101}, "items"),
        ({"session_id": 7}, "session_id"),
        ({"session_id": "s\r\nX-Evil: 1"}, "session_id"),
        ({"k": 0}, "k"),
        ({"k": -1}, "k"),
        ({"k": 101}, "k"),
        ({"k": 10**9}, "k"),
        ({"k": 2**70}, "k"),
        ({"k": "5"}, "k"),
        ({"k": 5.0}, "k"),
        ({"k": True}, "k"),
        ({"exclude": ["a"] * 1001}, "exclude"),
        ({"exclude": [4]}, "exclude.0"),
        ({"exclude_seen": 1}, "exclude_seen"),
        ({"exclude_seen": "yes"}, "exclude_seen"),
    ],
)
def test_an_invalid_recommendation_query_is_refused_with_the_field(
    client: TestClient, changes: dict[str, Any], at: str
) -> None:
    body = json.dumps({"items": ["a"]} | changes).encode()
    problem = refused(
        client,
        "POST",
        RECOMMENDATIONS,
        422,
        "invalid_request",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert problem["errors"][0]["at"] == f"body.{at}"


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"item_id": ""}, "item_id"),
        ({"type": "Bad Type"}, "type"),
        ({"type": "x" * 33}, "type"),
        ({"timestamp": 1_700_000_000}, "timestamp"),
        ({"timestamp": "1700000000"}, "timestamp"),
        ({"timestamp": "2026-01-01"}, "timestamp"),
        ({"timestamp": "2025-01-01T00:00:00"}, "timestamp"),
        ({"timestamp": "1980-01-01T00:00:00Z"}, "timestamp"),
        ({"timestamp": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, "timestamp"),
        ({"timestamp": "9999-99-99T99:99:99Z"}, "timestamp"),
        ({"event_id": 5}, "event_id"),
        ({"recommendation_id": TOO_LONG}, "recommendation_id"),
        ({"session_id": None}, "session_id"),
        ({"value": -1}, "value"),
        ({"value": "9.5"}, "value"),
        ({"store": 0}, "store"),
    ],
)
def test_an_invalid_event_is_refused_with_the_field(client: TestClient, changes: dict[str, Any], at: str) -> None:
    alone = refused(client, "POST", EVENTS, 422, "invalid_request", json=EVENT | changes)
    assert alone["errors"][0]["at"] == f"body.{at}"
    answer = client.post(EVENTS, json={"events": [EVENT, EVENT | changes]})
    assert (answer.status_code, answer.json()["applied"], answer.json()["rejected"]) == (207, 1, 1)
    refusal = answer.json()["results"][1]["error"]
    assert (refusal["code"], refusal["errors"][0]["at"]) == ("invalid_request", f"body.events.1.{at}")


@pytest.mark.parametrize("events", [[], [EVENT] * 1001, {}, None])
def test_an_invalid_list_of_events_is_refused(client: TestClient, events: Any) -> None:
    problem = refused(client, "POST", EVENTS, 422, "invalid_request", json={"events": events})
    assert problem["errors"][0]["at"] == "body.events"


def test_a_list_of_1000_events_is_accepted(client: TestClient) -> None:
    answer = client.post(EVENTS, json={"events": [{"session_id": "limit", "item_id": "a"}] * 1000})
    assert (answer.status_code, answer.json()["applied"]) == (200, 1000)


@pytest.mark.parametrize("path", [RECOMMENDATIONS, EVENTS])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"x"', b"{}"])
def test_json_that_is_not_a_request_is_refused(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"items":["a"],"items":["b"]}',
        b'{"k":NaN}',
        b'{"k":1e999}',
        b'{"items":' + b"[" * 30_000,
        b'{"items":["\xff"]}',
        b'{"k":' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [RECOMMENDATIONS, EVENTS])
def test_a_body_that_is_not_strict_json_is_refused(client: TestClient, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    refused(client, "POST", path, 400, "malformed_request", content=body, headers=headers)


@pytest.mark.parametrize("path", [RECOMMENDATIONS, EVENTS, f"{RECOMMENDATIONS}:batch"])
def test_the_place_of_a_json_error_is_named(client: TestClient, path: str) -> None:
    body = b'{"k": 5,\n "items": [item-17]}'
    headers = {"content-type": "application/json"}
    problem = refused(client, "POST", path, 400, "malformed_request", content=body, headers=headers)
    assert problem["detail"] == "The body is not acceptable JSON: Expecting value at line 2, column 12."


@pytest.mark.parametrize(
    "declared", [None, "text/plain", "application/x-www-form-urlencoded", "json", "multipart/form-data"]
)
def test_a_body_not_declared_as_json_is_refused(client: TestClient, declared: str | None) -> None:
    headers = {} if declared is None else {"content-type": declared}
    refused(client, "POST", RECOMMENDATIONS, 415, "unsupported_media_type", content=b'{"items":["a"]}', headers=headers)


def test_a_content_type_with_a_charset_is_accepted(client: TestClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post(RECOMMENDATIONS, content=b'{"items":["a"]}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "at"),
    [
        ("GET", "/v1/sessions/a%09b", "path.session_id"),
        ("GET", "/v1/sessions/a%00b", "path.session_id"),
        ("DELETE", f"/v1/sessions/{TOO_LONG}", "path.session_id"),
        ("GET", "/v1/sessions/a%09b/recommendations", "path.session_id"),
        ("GET", "/v1/sessions/s/recommendations?k=0", "query.k"),
        ("GET", "/v1/sessions/s/recommendations?k=many", "query.k"),
        ("GET", "/v1/sessions/s/recommendations?exclude_seen=perhaps", "query.exclude_seen"),
        ("GET", "/v1/items/a%09b/similar", "path.item_id"),
        ("GET", "/v1/items/a/similar?k=101", "query.k"),
        ("GET", "/v1/items:popular?exclude=a%09b", "query.exclude.0"),
        ("GET", "/v1/items:popular?secret=1", "query"),
    ],
)
def test_an_invalid_path_or_query_is_refused_with_the_parameter(
    client: TestClient, method: str, path: str, at: str
) -> None:
    problem = refused(client, method, path, 422, "invalid_request")
    assert [error["at"] for error in problem["errors"]] == [at]


@pytest.mark.parametrize("path", ["/v1/sessions/%ff", "/v1/items/%c3%28/similar", "/v1/items:popular?exclude=%fe"])
def test_a_path_or_query_that_is_not_utf_8_is_refused(client: TestClient, path: str) -> None:
    refused(client, "GET", path, 400, "malformed_request")


def test_a_wrong_method_is_answered_with_the_allowed_ones(client: TestClient) -> None:
    refused(client, "PUT", RECOMMENDATIONS, 405, "method_not_allowed")
    assert client.put(RECOMMENDATIONS).headers["allow"] == "POST"


@pytest.mark.parametrize("path", [RECOMMENDATIONS, EVENTS, "/nowhere"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_refused_however_it_is_sent(client: TestClient, path: str, chunked: bool) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        for start in range(0, size, KIB):
            yield b" " * min(KIB, size - start)

    headers = {"content-type": "application/json"}
    limit = 1024 * KIB
    for size, status in ((limit, {400, 404, 422}), (limit + 1, {413})):
        content: Any = chunks(size) if chunked else b" " * size
        assert client.post(path, content=content, headers=headers).status_code in status


def test_only_the_first_faults_are_reported(client: TestClient) -> None:
    problem = refused(client, "POST", RECOMMENDATIONS, 422, "invalid_request", json={"items": [1] * 100})
    assert len(problem["errors"]) == 20
    assert "100 places" in problem["detail"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("itmes", 'Unknown field "itmes"; did you mean items?'),
        ("sessionId", 'Unknown field "sessionId"; did you mean session_id?'),
        ("zzz", 'Unknown field "zzz"; see /docs for the known ones'),
        ("é<b>\n", r'Unknown field "\u00e9<b>\n"; see /docs for the known ones'),
        ("x" * 10_000, f'Unknown field "{"x" * 64}"; see /docs for the known ones'),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_known_one(client: TestClient, name: str, message: str) -> None:
    body = json.dumps({name: 1, "items": ["a"]})
    problem = client.post(RECOMMENDATIONS, content=body, headers={"content-type": "application/json"}).json()
    assert problem["errors"] == [{"at": "body", "message": message}]


def test_no_value_of_a_refused_request_is_echoed(client: TestClient) -> None:
    marker = "CANARY"
    bodies: list[dict[str, Any]] = [
        {"items": [f"{marker}\n{marker}"]},
        {"items": ["a"], "k": marker},
        {"items": [{marker: marker}]},
        {"items": ["a"], "exclude_seen": marker},
        {"session_id": "s", "item_id": "a", "type": marker, "timestamp": marker},
    ]
    for body in bodies:
        for path in (RECOMMENDATIONS, EVENTS):
            response = client.post(path, json=body)
            assert 400 <= response.status_code < 500
            assert marker not in response.text
        listed = client.post(EVENTS, json={"events": [body, marker]})
        assert (listed.status_code, listed.json()["rejected"]) == (207, 2)
        assert marker not in listed.text
    for path in (f"/{marker}", f"/v1/items/{marker}/similar", f"/v1/items:popular?k={marker}"):
        assert marker not in client.get(path).text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["item-1", "a", "\ud800", "x" * 129, "2025-01-01T00:00:00Z", "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text()
            | st.sampled_from(
                ["session_id", "items", "k", "exclude", "exclude_seen", "events", "item_id", "timestamp"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode())


@settings(max_examples=250)
@given(path=st.sampled_from([RECOMMENDATIONS, EVENTS]), body=bodies)
def test_no_body_causes_a_5xx(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, (response.status_code, body)
    if response.status_code >= 400:
        assert response.json()["status"] == response.status_code
        assert response.headers["content-type"] == "application/problem+json"


@settings(max_examples=150)
@given(
    template=st.sampled_from(
        ["/v1/sessions/{}", "/v1/sessions/{}/recommendations", "/v1/items/{}/similar", "/v1/items:popular?{}", "/{}"]
    ),
    part=st.binary(max_size=40).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))
    | st.text("ab?&=/k%.:", max_size=20),
    method=st.sampled_from(["GET", "DELETE", "POST", "OPTIONS", "HEAD"]),
)
def test_no_url_causes_a_5xx(client: TestClient, template: str, part: str, method: str) -> None:
    assert client.request(method, f"http://testserver{template.format(part)}").status_code < 500


@pytest.mark.parametrize("path", ["/v1/sessions/a%0A", "/v1/items/a/similar%0a", "/v1/events%0A"])
def test_a_path_with_a_line_break_is_refused(client: TestClient, path: str) -> None:
    refused(client, "GET", path, 400, "malformed_request")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/items/a", {"GET", "PATCH", "DELETE"}),
        ("/v1/items/a/similar", {"GET"}),
        ("/v1/sessions/a", {"GET", "DELETE"}),
        ("/v1/sessions/a/recommendations", {"GET"}),
        ("/v1/sessions/a:merge", {"POST"}),
        ("/v1/scenarios/a", {"GET", "PUT", "DELETE"}),
    ],
)
def test_allow_lists_the_methods_of_all_routes_with_the_path(client: TestClient, path: str, allowed: set[str]) -> None:
    refused(client, "OPTIONS", path, 405, "method_not_allowed")
    assert set(client.options(path).headers["allow"].split(", ")) == allowed


def test_a_plain_slash_ends_an_id(client: TestClient) -> None:
    refused(client, "DELETE", "/v1/sessions/a/recommendations", 405, "method_not_allowed")
    refused(client, "PATCH", "/v1/items/a/similar", 405, "method_not_allowed", json={})
    refused(client, "GET", "/v1/items/a/b", 404, "not_found")


def test_an_absent_optional_body_needs_no_content_type(client: TestClient) -> None:
    path = "/v1/recommendations/nothing/next"
    refused(client, "POST", path, 404, "recommendation_not_found")
    refused(client, "POST", path, 415, "unsupported_media_type", content=b"{}")
