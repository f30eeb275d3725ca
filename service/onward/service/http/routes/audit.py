"""Endpoint of the audit log: who changed what."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from onward.service.errors import AuditLogOff, AuditLogUnavailable, InvalidRequest
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import PATH_PROBLEMS, AuditFileDep, of_the_deployment
from onward.service.http.schemas.audit import AuditedChange, AuditPage
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.records.audit_log import read_page

MAX_LINES = 200

router = APIRouter(route_class=StrictJSONRoute, tags=["operations"], dependencies=[Depends(of_the_deployment)])

Limit = Annotated[int, Query(ge=1, le=MAX_LINES, description="The most changes to return.")]
Cursor = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9]{1,20}-[0-9]{1,20}$",
        description="`next_cursor` of the page before, for earlier changes.",
        examples=["131-4096"],
    ),
]


@router.get(
    "/v1/audit",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, AuditLogOff, AuditLogUnavailable),
)
async def show_audit(file: AuditFileDep, limit: Limit = 50, cursor: Cursor = None) -> AuditPage:
    """Return changes from the audit log, the newest first. A log that was moved away is not read."""
    if file is None:
        raise AuditLogOff("The deployment writes no audit log; SERVICE_AUDIT_LOG names a file for it.")
    try:
        page = await asyncio.to_thread(read_page, file, limit, cursor)
    except OSError as error:
        raise AuditLogUnavailable(f"The audit log cannot be read: {error.strerror}.") from error
    if page is None:
        raise InvalidRequest("The audit log was replaced since this cursor was given; begin again without one.")
    changes = [AuditedChange.model_validate(change) for change in page.changes]
    return AuditPage(changes=changes, next_cursor=page.cursor)
