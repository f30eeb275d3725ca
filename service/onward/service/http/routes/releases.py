"""Endpoints of releases: bundles with their states, and the changes of them."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request, Response

from onward.bundle import Author, BundleError
from onward.bundle.data_report import DataReport
from onward.service.errors import (
    AuditLogUnavailable,
    BundleNotFound,
    GateNotPassed,
    LiveStoreUnavailable,
    NotReady,
    PreconditionFailed,
    ReleaseRefused,
)
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    ADMISSION_PROBLEMS,
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    AuditDep,
    LiveDep,
    RecorderDep,
    ReleasesDep,
    caller_name,
    of_the_deployment,
)
from onward.service.http.schemas.live_metrics import BundleData
from onward.service.http.schemas.releases import (
    ActivationBody,
    BundleDetails,
    ProtectionBody,
    ReasonBody,
    ReleasedBundle,
    ReleasedBundles,
)
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.live.bundle import LiveBundle
from onward.service.live.releases import Precondition, ReleaseList, Releases
from onward.service.records.audit_log import Change

router = APIRouter(route_class=StrictJSONRoute, tags=["releases"], dependencies=[Depends(of_the_deployment)])

BUNDLE_PATH = "/v1/bundles/{digest:word}"
DIGEST_PATTERN = "^[0-9a-f]{8,64}$"

Digest = Annotated[
    str,
    Path(pattern=DIGEST_PATTERN, description="Digest of the bundle, or its beginning.", examples=["5d13bce372cd0407"]),
]
IfMatch = Annotated[
    str | None,
    Header(
        pattern=r'^(\*|"[0-9a-f]{16}")$',
        description="ETag of the releases as the caller saw them: refused if anybody has changed them since.",
        examples=['"0f1e2d3c4b5a6978"'],
    ),
]
ETAG = {
    "headers": {
        "ETag": {"description": "The version of the releases, all together, in quotes.", "schema": {"type": "string"}}
    }
}
CHANGE_PROBLEMS = (
    *BODY_PROBLEMS,
    BundleNotFound,
    ReleaseRefused,
    PreconditionFailed,
    LiveStoreUnavailable,
    AuditLogUnavailable,
)


@router.get("/v1/bundles", responses={200: ETAG, **problems(*ADMISSION_PROBLEMS, ReleaseRefused)})
async def list_bundles(releases: ReleasesDep, response: Response) -> ReleasedBundles:
    """List all bundles with their states: the live one, staged, retired, removed ones; of each the newest first."""
    found = await releases.read()
    shown = await asyncio.to_thread(
        lambda: [ReleasedBundle.of(of, releases.bundles, found.state(of)) for of in found.releases]
    )
    response.headers["ETag"] = _etag(found)
    return ReleasedBundles(bundles=shown, count=len(shown))


@router.get(
    f"{BUNDLE_PATH}/data",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, BundleNotFound, ReleaseRefused),
)
async def show_bundle_data(digest: Digest, releases: ReleasesDep, live: LiveDep, recorder: RecorderDep) -> BundleData:
    """Return figures of the dataset that a bundle was trained on, and how much events differ now."""
    release, _ = await releases.find(digest)
    try:
        report = await asyncio.to_thread(DataReport.read, releases.bundles, release.digest)
    except BundleError as error:
        raise ReleaseRefused(str(error)) from error
    if report is None:
        raise BundleNotFound("No figures of its data are stored with this bundle.")
    return BundleData(
        bundle=release.digest,
        known_now=_known_share(release.digest, live, recorder.popularity.scores),
        **report.model_dump(exclude={"format_version"}),
    )


@router.post(f"{BUNDLE_PATH}:activate", responses={200: ETAG, **problems(*CHANGE_PROBLEMS, GateNotPassed)})
async def activate_bundle(
    digest: Digest,
    body: ActivationBody,
    releases: ReleasesDep,
    live: LiveDep,
    audit: AuditDep,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> BundleDetails:
    """Make a bundle live: a staged one that has passed the gate, or one that was live before.

    It is loaded and checked first; this worker serves it when this returns, all others within about a second. With
    `force` and a `reason` it goes live although it has not passed, which stays visible.
    """
    author = Author(caller_name(request), body.reason)
    edited = await releases.activate(digest, author, force=body.force, precondition=_precondition(if_match))
    await live.refresh()
    details = await _details(edited.after, releases, response)
    after = {"live": edited.after, "reason": body.reason, "overridden": details.overridden}
    await audit.record(Change("bundle activated", edited.after, {"live": edited.before}, after))
    return details


@router.post("/v1/bundles:rollback", responses={200: ETAG, **problems(*CHANGE_PROBLEMS)})
async def roll_back_bundle(
    body: ReasonBody,
    releases: ReleasesDep,
    live: LiveDep,
    audit: AuditDep,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> BundleDetails:
    """Make the bundle live again that was live before; those that were rolled back themselves are passed over."""
    author = Author(caller_name(request), body.reason)
    edited = await releases.roll_back(author, precondition=_precondition(if_match))
    await live.refresh()
    after = {"live": edited.after, "reason": body.reason}
    await audit.record(Change("bundle rolled back", edited.after, {"live": edited.before}, after))
    return await _details(edited.after, releases, response)


@router.post(f"{BUNDLE_PATH}:protect", responses={200: ETAG, **problems(*CHANGE_PROBLEMS)})
async def protect_bundle(
    digest: Digest,
    body: ProtectionBody,
    releases: ReleasesDep,
    audit: AuditDep,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> BundleDetails:
    """Protect a bundle from being removed, or end that with `"protected": false`.

    202 if a worker does it, because the service may not write to the folder of bundles.
    """
    author = Author(caller_name(request), body.reason)
    release = await releases.protect(digest, author, protected=body.protected, precondition=_precondition(if_match))
    what = "bundle protected" if body.protected else "bundle unprotected"
    await audit.record(Change(what, release.digest, None, {"reason": body.reason}))
    if not releases.is_writable:
        response.status_code = 202
    return await _details(release.digest, releases, response)


@router.post(f"{BUNDLE_PATH}:remove", responses={200: ETAG, **problems(*CHANGE_PROBLEMS)})
async def remove_bundle(
    digest: Digest,
    body: ReasonBody,
    releases: ReleasesDep,
    audit: AuditDep,
    request: Request,
    response: Response,
    if_match: IfMatch = None,
) -> BundleDetails:
    """Remove a bundle for good; its record stays.

    Refused if it is live, is protected, or was live within the last hour. 202 if a worker does it, because the service
    may not write to the folder of bundles; whether it did is in the list of jobs.
    """
    author = Author(caller_name(request), body.reason)
    release = await releases.remove(digest, author, precondition=_precondition(if_match))
    await audit.record(Change("bundle removed", release.digest, None, {"reason": body.reason}))
    if not releases.is_writable:
        response.status_code = 202
    return await _details(release.digest, releases, response)


@router.get(BUNDLE_PATH, responses={200: ETAG, **problems(*PATH_PROBLEMS, BundleNotFound, ReleaseRefused)})
async def show_bundle(digest: Digest, releases: ReleasesDep, response: Response) -> BundleDetails:
    """Return a bundle: its state, what has happened to it, and what the gate measured."""
    return await _details(digest, releases, response)


async def _details(digest: str, releases: Releases, response: Response) -> BundleDetails:
    release, found = await releases.find(digest)
    response.headers["ETag"] = _etag(found)
    return await asyncio.to_thread(BundleDetails.of, release, releases.bundles, found.state(release))


def _known_share(digest: str, live: LiveBundle, popular_now: Mapping[str, float]) -> float | None:
    """Return the share of the weight of recent events on items that a bundle was trained on, if it is the live one."""
    try:
        bundle = live.bundle
    except NotReady:
        return None
    total = sum(popular_now.values())
    if bundle.digest != digest or not total:
        return None
    rows = zip(popular_now.values(), bundle.catalog.rows(list(popular_now)), strict=True)
    return sum(weight for weight, row in rows if row is not None and row <= bundle.manifest.encodable_items) / total


def _etag(found: ReleaseList) -> str:
    return f'"{found.version}"'


def _precondition(if_match: str | None) -> Precondition:
    if if_match is None or if_match == "*":
        return lambda version: True
    return lambda version: version == if_match.strip('"')
