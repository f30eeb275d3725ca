"""Endpoints of operations: version, health and metrics of the process."""

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import APIRouter, Response

from onward.service import telemetry
from onward.service.errors import Draining, InternalError, NotReady
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import ADMISSION_PROBLEMS, DrainDep, KeysDep, LiveDep, StoreCheckDep
from onward.service.http.schemas.operations import Health, RefusedBundle, Version
from onward.service.http.strict_json import StrictJSONRoute

router = APIRouter(route_class=StrictJSONRoute, tags=["operations"])
metrics = APIRouter(route_class=StrictJSONRoute, tags=["operations"])


@router.get("/v1/version", response_model_exclude_none=True, responses=problems(*ADMISSION_PROBLEMS))
async def show_version(live: LiveDep) -> Version:
    """Report the version of the service and its live bundle."""
    try:
        bundle = live.bundle
    except NotReady:
        return Version(service=version("onward"))
    manifest = bundle.manifest
    return Version(
        service=version("onward"),
        bundle=bundle.digest,
        model=manifest.model,
        created=manifest.created,
        items=manifest.items,
        metrics=manifest.metrics,
        age_seconds=max(0, round((datetime.now(UTC) - manifest.created).total_seconds())),
        activated=live.status.activated,
        gate_passed=live.status.gate_passed,
        gate_time=live.status.gate_time,
    )


@router.get("/health/live", response_model_exclude_none=True)
async def check_liveness() -> Health:
    """Report that the process responds."""
    return Health(status="live")


@router.get(
    "/health/ready",
    response_model_exclude_none=True,
    responses={
        200: {"content": {"application/json": {"example": {"status": "ready", "bundle": "5d13bce372cd0407..."}}}},
        **problems(NotReady, Draining, InternalError),
    },
)
async def check_readiness(live: LiveDep, keys: KeysDep, drain: DrainDep, store_check: StoreCheckDep) -> Health:
    """Report whether a bundle is live, and whether a newer one was refused; ready even if the session store is down.

    `store_misconfigured` says why the store refuses the service, if it is up and does.

    Not ready once the service is about to stop (`draining`), although it still answers.
    """
    if drain.has_begun:
        raise Draining("The service is about to stop; it still answers.")
    digest, refusal = live.bundle.digest, live.refusal
    refused = None if refusal is None else RefusedBundle(bundle=refusal.digest, reason=refusal.reason)
    fault = None if store_check is None else store_check.fault
    return Health(
        status="ready",
        bundle=digest,
        refused=refused,
        refused_keys=None if keys is None else keys.refusal,
        store_misconfigured=None if fault is None else fault.reason,
    )


@metrics.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "onward_requests_total 1.0\n"}}}},
)
async def show_metrics() -> Response:
    """Return the metrics of all workers in Prometheus format; answer counts of other workers lag up to a second."""
    telemetry.count_answers()
    rendered = await asyncio.to_thread(telemetry.render_metrics)
    return Response(rendered, media_type=telemetry.METRICS_CONTENT_TYPE)
