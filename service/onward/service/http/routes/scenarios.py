"""Endpoints of scenarios: recommendation options stored under a name."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Response

from onward.service.errors import (
    AuditLogUnavailable,
    LimitReached,
    LiveStoreUnavailable,
    NotReady,
    PreconditionFailed,
    ScenarioNotFound,
)
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    ADMISSION_PROBLEMS,
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    AuditDep,
    LiveDep,
    ScenariosDep,
)
from onward.service.http.schemas.scenarios import ScenarioBody, ScenarioName, StoredScenario, StoredScenarios
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.recommend.scenarios import Precondition, Scenario
from onward.service.records.audit_log import Change

SCENARIO_PATH = "/v1/scenarios/{name}"
ANY_VERSION = "*"

router = APIRouter(route_class=StrictJSONRoute, tags=["scenarios"])


Name = Annotated[ScenarioName, Path(examples=["product-page"])]
IfMatch = Annotated[
    str | None,
    Header(
        pattern=r'^(\*|"[1-9][0-9]{0,14}")$',
        description='ETag of the version to replace or delete, as in "1"; * for any stored version.',
        examples=['"1"'],
    ),
]
ETAG = {"headers": {"ETag": {"description": "The version, in quotes.", "schema": {"type": "string"}}}}


@router.get("/v1/scenarios", response_model_exclude_unset=True, responses=problems(*ADMISSION_PROBLEMS))
async def list_scenarios(scenarios: ScenariosDep) -> StoredScenarios:
    """List all scenarios."""
    stored = [_stored(scenario) for scenario in scenarios.all()]
    return StoredScenarios(scenarios=stored, count=len(stored))


@router.get(
    SCENARIO_PATH,
    response_model_exclude_unset=True,
    responses={200: ETAG, **problems(*PATH_PROBLEMS, ScenarioNotFound)},
)
async def show_scenario(name: Name, scenarios: ScenariosDep, response: Response) -> StoredScenario:
    """Return a scenario."""
    if (scenario := scenarios.find(name)) is None:
        raise ScenarioNotFound
    return _tagged(scenario, response)


@router.put(
    SCENARIO_PATH,
    response_model_exclude_unset=True,
    responses={
        200: ETAG,
        **problems(
            *BODY_PROBLEMS, LimitReached, PreconditionFailed, NotReady, LiveStoreUnavailable, AuditLogUnavailable
        ),
    },
)
async def store_scenario(
    name: Name,
    body: ScenarioBody,
    live: LiveDep,
    scenarios: ScenariosDep,
    audit: AuditDep,
    response: Response,
    if_match: IfMatch = None,
) -> StoredScenario:
    """Store options under a name, after checking them against the live bundle's catalog; increments the version.

    A recommendation that names the scenario uses these options, unless its request overrides them. All workers use the
    new version within a second.
    """
    if refusal := body.refusal(live.bundle.catalog.schema, "body"):
        raise refusal
    put = await scenarios.put(name, body, _precondition(if_match))
    await audit.record(Change("scenario stored", name, *put.options))
    return _tagged(put.scenario, response)


@router.delete(
    SCENARIO_PATH,
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, ScenarioNotFound, PreconditionFailed, LiveStoreUnavailable, AuditLogUnavailable),
)
async def delete_scenario(name: Name, scenarios: ScenariosDep, audit: AuditDep, if_match: IfMatch = None) -> None:
    """Delete a scenario; recommendations that still name it are refused."""
    edited = await scenarios.delete(name, _precondition(if_match))
    await audit.record(Change("scenario deleted", name, *edited))


def _precondition(if_match: str | None) -> Precondition:
    if if_match is None:
        return lambda version: True
    if if_match == ANY_VERSION:
        return lambda version: version is not None
    return lambda version: version == int(if_match.strip('"'))


def _tagged(scenario: Scenario, response: Response) -> StoredScenario:
    response.headers["ETag"] = f'"{scenario.version}"'
    return _stored(scenario)


def _stored(scenario: Scenario) -> StoredScenario:
    return StoredScenario(name=scenario.name, version=scenario.version, options=scenario.options)
