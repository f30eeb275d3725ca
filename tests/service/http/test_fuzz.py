"""Whatever is sent, the service does as its OpenAPI document says: schemathesis, with all its checks.

ONWARD_FUZZ_EXAMPLES=1000 looks further, and elsewhere each time: `pytest --timeout=0 tests/service/test_fuzz.py`.
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
from onward.service.fields import VISIBLE
from onward.service.settings import IN_MEMORY, Settings
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until

FEW = 20
EXAMPLES = int(os.environ.get("ONWARD_FUZZ_EXAMPLES", FEW))
KEY = "of-this-test"
ITEMS = item_ids("item-", 40)
ATTRIBUTE = "attribute-of-the-catalog"

BEYOND_JSON_SCHEMA = re.compile(
    "|".join(
        (
            "Input should be a valid integer",  # 5.0, which JSON Schema takes for one
            "pins are of different items",
            "a filter has at most",
            "no item of the catalog has this attribute",
            "is of the kind",
            "compare it with|only exists can ask|only a number or a date has",
            "a window is 1 minute to 30 days",
            "cannot be merged into itself",
            "No scenario of this name",
        )
    )
)
"""Why a request that fits the document may be refused by 422; other tests ask for each of these."""

UNCOVERED = ("recommend", "recommend_for_many", "store_scenario", "delete_scenario")
"""Without schemathesis's fixed cases: a filter, a tree, has ten thousands, and those of If-Match lack its quotes."""


def config(*, coverage: bool) -> schemathesis.Config:
    settings: dict[str, Any] = {
        "generation": {"max-examples": EXAMPLES, "deterministic": EXAMPLES == FEW, "database": "none"},
        "phases": {"coverage": {"enabled": coverage}},
        "auth": {"openapi": {"bearer": {"bearer": KEY}}},
        "checks": {
            # 207 tells of each entry by itself; 413 stands for what is too large as a whole.
            "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 207]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 409, 410, 412, 413]},
        },
    }
    return schemathesis.Config.from_dict(settings | ({"seed": 1} if EXAMPLES == FEW else {}))


class Service:
    """The service that all cases are sent to, in this process."""

    def __init__(self, bundles: Path) -> None:
        self.use(bundles)

    def use(self, bundles: Path) -> None:
        digest = sha256(KEY.encode()).hexdigest()
        self.app = create_app(Settings(bundles=bundles, redis_url=SecretStr(IN_MEMORY), api_keys=(digest,)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def document(service: Service, *, coverage: bool) -> OpenApiSchema:
    """What the service tells of itself, and where a catalog's attributes are named in it."""
    described = service.app.openapi()
    for condition in ("Equals", "In", "InRange", "Exists"):
        described["components"]["schemas"][condition]["properties"]["attribute"]["format"] = ATTRIBUTE
    document = schemathesis.openapi.from_dict(described, config=config(coverage=coverage))
    document.app, document.location = service, "/openapi.json"
    return document


moments = st.integers(0, 3600).map(lambda ago_s: (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat())
schemathesis.openapi.format(VISIBLE, st.sampled_from(ITEMS) | st.text(min_size=1, max_size=128).filter(is_valid_id))
schemathesis.openapi.format(ATTRIBUTE, st.sampled_from(["price", "brand", "tags", "sold", "since"]))
schemathesis.openapi.format("date-time", moments)
schemathesis.openapi.format("duration", st.integers(1, 24 * 30).map(lambda hours: f"PT{hours}H"))
SERVICE = Service(Path())
DOCUMENT, DOCUMENT_UNCOVERED = document(SERVICE, coverage=True), document(SERVICE, coverage=False)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(autouse=True)
def fresh_service(bundles: Path) -> Iterator[None]:
    start(bundles)
    yield
    shutdown_lifespans()


def start(bundles: Path) -> None:
    shutdown_lifespans()
    SERVICE.use(bundles)
    wait_until(lambda: DOCUMENT["/health/ready"]["GET"].Case().call().status_code == 200)


def published(bundles: Path) -> Path:
    """A catalog with attributes of each kind."""
    attributes: list[dict[str, Any]] = [
        {"price": number, "brand": "Acme", "tags": ["gift"], "sold": True, "since": "2026-01-01"} if number % 3 else {}
        for number in range(len(ITEMS))
    ]
    publish_bundle(bundles, ITEMS, attributes=attributes, interests=2)
    return bundles


def checked(case: Case[Any], response: Response, **context: Any) -> None:
    excluded: list[CheckFunction] = [positive_data_acceptance] if is_beyond_json_schema(response) else []
    case.validate_response(response, excluded_checks=excluded, **context)


def is_beyond_json_schema(response: Response) -> bool:
    if response.status_code != 422:
        return False
    problem = response.json()
    messages = [fault["message"] for fault in problem.get("errors", [])] or [problem["detail"]]
    return all(BEYOND_JSON_SCHEMA.search(message) for message in messages)


def asked_whatever(operation_id: str) -> Callable[..., None]:
    document = DOCUMENT_UNCOVERED if operation_id in UNCOVERED else DOCUMENT

    def answers_as_it_is_described(case: Case[Any]) -> None:
        checked(case, case.call())

    test: Callable[..., None] = document.include(operation_id=operation_id).parametrize()(answers_as_it_is_described)
    return test


# A test for each endpoint: those that parametrize() itself makes have one name, so that xdist would run one of them.
PATHS = SERVICE.app.openapi()["paths"].values()
OPERATION_IDS = [operation["operationId"] for operations in PATHS for operation in operations.values()]
globals().update({f"test_{name}_answers_as_it_is_described": asked_whatever(name) for name in OPERATION_IDS})


def test_what_an_answer_leads_to_answers_as_it_is_described(bundles: Path) -> None:
    class Visitor(DOCUMENT.as_state_machine()):  # type: ignore[misc]  # the base is made from the document
        def setup(self) -> None:
            start(bundles)

        def validate_response(self, response: Response, case: Case[Any], *arguments: Any, **options: Any) -> None:
            checked(case, response, recorder=self.recorder)  # what was made and deleted before

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
