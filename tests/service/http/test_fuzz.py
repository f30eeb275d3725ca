"""Fuzzing: for any request the service behaves as its OpenAPI document says; schemathesis, with all its checks.

ONWARD_FUZZ_EXAMPLES=1000 tries more examples, new ones in each run:
`ONWARD_FUZZ_EXAMPLES=1000 pytest -m slow --timeout=0 tests/service/http/test_fuzz.py`.
"""

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis import Case, CheckFunction, Response
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema
from starlette.types import Receive, Scope, Send

from onward.bundle import is_valid_id
from onward.service.app import create_app
from onward.service.fields import ID_FORMAT
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until

pytestmark = pytest.mark.slow

FEW = 20
EXAMPLES = int(os.environ.get("ONWARD_FUZZ_EXAMPLES", FEW))
KEY = "key-of-this-test"
ITEMS = item_ids("item-", 40)
ATTRIBUTE = "attribute-of-the-catalog"

BEYOND_JSON_SCHEMA = re.compile(
    "|".join(
        (
            "Input should be a valid integer",  # 5.0, which JSON Schema accepts as an integer
            "pins are of different items",
            "a filter has at most",
            "no item of the catalog has this attribute",
            "is of the kind",
            "compare it with|only exists can ask|only a number or a date has",
            "a window is 1 minute to 30 days",
            "cannot be merged into itself",
            "list again from the start",
            "No scenario of this name",
            "force needs a reason",
            "are options of a rebuild|is an option of a fit",
        )
    )
)
"""Reasons for which a request that matches the document may be refused with 422; other tests cover each."""

WITHOUT_COVERAGE = (
    "recommend",
    "recommend_for_many",
    "recommend_from_bundle",
    "explain_item",
    "store_scenario",
    "delete_scenario",
    "activate_bundle",
    "roll_back_bundle",
    "protect_bundle",
    "remove_bundle",
)
"""Tested without schemathesis's coverage phase: it has tens of thousands of cases for filters, which are trees, and
its values of If-Match lack the quotes."""


def config(*, coverage: bool) -> schemathesis.Config:
    settings: dict[str, Any] = {
        "generation": {"max-examples": EXAMPLES, "deterministic": EXAMPLES == FEW, "database": "none"},
        "phases": {"coverage": {"enabled": coverage}},
        "auth": {"openapi": {"bearer": {"bearer": KEY}}},
        "checks": {
            # 207 reports each entry of a list; 413 refuses a body that is too large.
            "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 207]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 409, 410, 412, 413]},
        },
    }
    return schemathesis.Config.from_dict(settings | ({"seed": 1} if EXAMPLES == FEW else {}))


class FuzzedApplication:
    """The application that all cases are sent to, in this process; each test replaces it by a fresh one."""

    def __init__(self, bundles: Path) -> None:
        self.restart(bundles)

    def restart(self, bundles: Path) -> None:
        digest = sha256(KEY.encode()).hexdigest()
        self.app = create_app(Settings(bundles=bundles, redis_url=SecretStr(IN_MEMORY), api_keys=(digest,)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def document(service: FuzzedApplication, *, coverage: bool) -> OpenApiSchema:
    """Return the service's OpenAPI document, in which the attribute names of filters have a format of their own."""
    openapi = service.app.openapi()
    for condition in ("EqualsCondition", "InCondition", "RangeCondition", "ExistsCondition"):
        openapi["components"]["schemas"][condition]["properties"]["attribute"]["format"] = ATTRIBUTE
    document = schemathesis.openapi.from_dict(openapi, config=config(coverage=coverage))
    document.app, document.location = service, "/openapi.json"
    return document


moments = st.integers(0, 3600).map(lambda ago_s: (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat())
schemathesis.openapi.format(ID_FORMAT, st.sampled_from(ITEMS) | st.text(min_size=1, max_size=128).filter(is_valid_id))
schemathesis.openapi.format(ATTRIBUTE, st.sampled_from(["price", "brand", "tags", "sold", "since"]))
schemathesis.openapi.format("date-time", moments)
schemathesis.openapi.format("duration", st.integers(1, 24 * 30).map(lambda hours: f"PT{hours}H"))
SERVICE = FuzzedApplication(Path())
DOCUMENT, DOCUMENT_WITHOUT_COVERAGE = document(SERVICE, coverage=True), document(SERVICE, coverage=False)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(autouse=True)
def fresh_service(bundles: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    request.node._nodeid = request.node.nodeid  # schemathesis 4.32 expects the attribute, which pytest 9.2 lacks
    start(bundles)
    yield
    shutdown_lifespans()


@pytest.fixture
def document_with_coverage() -> OpenApiSchema:
    return DOCUMENT


@pytest.fixture
def document_without_coverage() -> OpenApiSchema:
    return DOCUMENT_WITHOUT_COVERAGE


def start(bundles: Path) -> None:
    shutdown_lifespans()
    SERVICE.restart(bundles)
    wait_until(lambda: DOCUMENT["/health/ready"]["GET"].Case().call().status_code == 200)


def publish(bundles: Path) -> Path:
    """Publish a bundle whose catalog has attributes of each kind; return the folder."""
    attributes: list[dict[str, Any]] = [
        {"price": number, "brand": "Acme", "tags": ["gift"], "sold": True, "since": "2026-01-01"} if number % 3 else {}
        for number in range(len(ITEMS))
    ]
    publish_bundle(bundles, ITEMS, attributes=attributes, interests=2)
    return bundles


def check(case: Case[Any], response: Response, **context: Any) -> None:
    excluded: list[CheckFunction] = [positive_data_acceptance] if is_beyond_json_schema(response) else []
    case.validate_response(response, excluded_checks=excluded, **context)


def is_beyond_json_schema(response: Response) -> bool:
    if response.status_code != 422:
        return False
    problem = response.json()
    messages = [fault["message"] for fault in problem.get("errors", [])] or [problem["detail"]]
    return all(BEYOND_JSON_SCHEMA.search(message) for message in messages)


def fuzz_test(operation_id: str) -> Callable[..., None]:
    """Return a test of an operation. Its cases are generated when it runs: they take seconds for each operation."""
    coverage = "without" if operation_id in WITHOUT_COVERAGE else "with"
    document = schemathesis.pytest.from_fixture(f"document_{coverage}_coverage")

    def matches_its_documentation(case: Case[Any]) -> None:
        check(case, case.call())

    test: Callable[..., None] = document.include(operation_id=operation_id).parametrize()(matches_its_documentation)
    return test


# One test per endpoint, each with its own name: parametrize() would give all the same, and xdist would run only one.
PATHS = SERVICE.app.openapi()["paths"].values()
OPERATION_IDS = [operation["operationId"] for operations in PATHS for operation in operations.values()]
globals().update({f"test_{name}_matches_its_documentation": fuzz_test(name) for name in OPERATION_IDS})


@pytest.mark.slow
def test_sequences_of_linked_calls_match_their_documentation(bundles: Path) -> None:
    class Visitor(DOCUMENT.as_state_machine()):  # type: ignore[misc]  # the base class is generated from the document
        def setup(self) -> None:
            start(bundles)

        def validate_response(self, response: Response, case: Case[Any], *arguments: Any, **options: Any) -> None:
            check(case, response, recorder=self.recorder)  # it knows what earlier calls created and deleted

    Visitor.run(
        settings=settings(
            max_examples=EXAMPLES // 2,
            stateful_step_count=6,
            deadline=None,
            database=None,
            derandomize=EXAMPLES == FEW,
            suppress_health_check=list(HealthCheck),
        )
    )
