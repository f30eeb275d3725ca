"""Generators make clients of the OpenAPI document that type checkers accept and that can call the service."""

import os
import sys
from pathlib import Path

import pytest

from clients.generate import PYTHON_TYPES, TYPESCRIPT_TYPES, write_python_types, write_typescript_types
from tests.clients.tools import TYPESCRIPT, require_npm, require_python_generator
from tests.packaging.environments import ROOT, run

pytestmark = pytest.mark.clients

PYTHON_CALLS = """
import sys

from onward_client import Client
from onward_client.api.recommendations import recommend
from onward_client.api.scenarios import list_scenarios, store_scenario
from onward_client.api.sessions import record_events
from onward_client.models import (
    AndCondition, Bounds, EqualsCondition, EventBody, EventsBody, EventsStored, EventStored, Problem,
    RangeCondition, RecommendationQuery, Recommendations, ScenarioBody, StoredScenario, StoredScenarios,
)

client = Client(base_url=sys.argv[1])
cheap = AndCondition(and_=[
    EqualsCondition(attribute="category", equals="mugs"), RangeCondition(attribute="price", range_=Bounds(max_=30)),
])
stored = store_scenario.sync(client=client, name="generated", body=ScenarioBody(k=2, filter_=cheap))
assert isinstance(stored, StoredScenario) and stored.options.k == 2, stored
listed = list_scenarios.sync(client=client)
assert isinstance(listed, StoredScenarios) and listed.count == 1, listed

query = RecommendationQuery(session_id="visitor-1", scenario="generated")
assert query.to_dict() == {"session_id": "visitor-1", "scenario": "generated"}, "a default is sent"
answer = recommend.sync(client=client, body=query)
assert isinstance(answer, Recommendations) and answer.count == 2, answer

event = EventBody(session_id="visitor-1", item_id=answer.items[0].id)
one = record_events.sync(client=client, body=event)
assert isinstance(one, EventStored) and one.applied == 1, one
many = record_events.sync(client=client, body=EventsBody(events=[event, event]))
assert isinstance(many, EventsStored) and [result.status for result in many.results] == ["applied"] * 2, many

refused = recommend.sync(client=client, body=RecommendationQuery(k=1))
assert isinstance(refused, Problem) and refused.code == "invalid_request", refused
"""

TYPESCRIPT_CALLS = """
import type { components, operations, paths } from "./api";

type Schemas = components["schemas"];
const bare: Schemas["RecommendationQuery"] = { session_id: "visitor-1" };
const filtered: Schemas["RecommendationQuery"] = {
  items: ["item-1"],
  filter: { and: [{ attribute: "price", range: { max: 20 } }, { not: { attribute: "brand", in: ["Acme"] } }] },
  exclude_seen: "purchased",
};
const event: paths["/v1/events"]["post"]["requestBody"]["content"]["application/json"] = {
  session_id: "visitor-1",
  item_id: "item-1",
};
// @ts-expect-error: an unknown field
const unknown: Schemas["RecommendationQuery"] = { session_id: "visitor-1", kk: 1 };
// @ts-expect-error: an unknown value
const wrong: Schemas["RecommendationQuery"] = { session_id: "visitor-1", exclude_seen: "all" };

export function firstOf(
  answer: operations["recommend"]["responses"][200]["content"]["application/json"],
): string | undefined {
  return answer.items[0]?.id;
}
export function storedK(scenario: Schemas["StoredScenario"]): number | undefined {
  return scenario.options.k;
}
export const used = [bare, filtered, event, unknown, wrong];
"""


def test_a_generated_python_client_is_typed_and_calls_the_service(
    openapi: Path, service_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = require_python_generator()
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)  # the generator calls ruff
    client = tmp_path / "client"
    generator = [str(python.parent / "openapi-python-client"), "generate", "--fail-on-warning"]
    run([*generator, "--path", str(openapi), "--output-path", str(client)])
    (client / "calls.py").write_text(PYTHON_CALLS)
    types = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    run([*types, "--cache-dir", str(tmp_path / "cache"), "onward_client", "calls.py"], cwd=client)
    run([str(python), "calls.py", service_url], cwd=client)


def test_generated_typescript_types_compile_and_fit_the_calls(openapi: Path, tmp_path: Path) -> None:
    programs = require_npm()
    run([str(programs / "openapi-typescript"), str(openapi), "--output", str(tmp_path / "api.ts")])
    (tmp_path / "calls.ts").write_text(TYPESCRIPT_CALLS)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext"]
    run([str(programs / "tsc"), *options, "--moduleResolution", "bundler", str(tmp_path / "calls.ts")], cwd=tmp_path)


def test_the_types_of_the_python_client_are_those_of_the_document(tmp_path: Path) -> None:
    require_python_generator()
    write_python_types(tmp_path / "schemas.py")
    assert (tmp_path / "schemas.py").read_text() == PYTHON_TYPES.read_text(), "run `make client-types`"


def test_the_types_of_the_typescript_client_are_those_of_the_document(tmp_path: Path) -> None:
    require_npm()
    write_typescript_types(tmp_path / "schemas.ts")
    assert (tmp_path / "schemas.ts").read_text() == TYPESCRIPT_TYPES.read_text(), "run `make client-types`"


def test_the_tools_have_locks_that_name_no_host() -> None:
    lock = (TYPESCRIPT / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity": "sha512-' in lock
    assert '"resolved"' not in lock
    assert (ROOT / "requirements" / "generators.lock").exists()
