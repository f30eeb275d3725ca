"""Endpoints of jobs, which workers of training do."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from onward.bundle.jobs import Job, new_job
from onward.service.errors import (
    AuditLogUnavailable,
    JobFinished,
    JobNotFound,
    JobsOff,
    LimitReached,
    LiveStoreUnavailable,
)
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import (
    BODY_PROBLEMS,
    PATH_PROBLEMS,
    AuditDep,
    JobsDep,
    caller_name,
    of_the_deployment,
)
from onward.service.http.schemas.jobs import JobBody, JobDetails, JobPage
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.records.audit_log import Change

MAX_JOBS = 100

router = APIRouter(route_class=StrictJSONRoute, tags=["jobs"], dependencies=[Depends(of_the_deployment)])

JobId = Annotated[str, Path(pattern="^[A-Za-z0-9-]{1,64}$", examples=["20261122T093000-4f0c2a9e"])]
Limit = Annotated[int, Query(ge=1, le=MAX_JOBS, description="The most jobs to return.")]
Cursor = Annotated[
    str | None,
    Query(pattern="^[0-9]{1,6}$", description="`next_cursor` of the page before, for earlier jobs.", examples=["50"]),
]


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model_exclude_none=True,
    responses=problems(*BODY_PROBLEMS, JobsOff, LimitReached, LiveStoreUnavailable, AuditLogUnavailable),
)
async def start_job(body: JobBody, jobs: JobsDep, audit: AuditDep, request: Request, response: Response) -> Job:
    """Have a worker rebuild the current bundle, or fit to the newest events; it waits until one is free.

    A rebuild takes in what the live catalog changed. A fit goes live if it passes the gate.
    """
    job = new_job(body.kind, body.options(), by=caller_name(request), reason=body.reason)
    await jobs.enqueue(job)
    await audit.record(Change("job started", job.id, None, job.model_dump(mode="json", include={"kind", "options"})))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get(
    "/v1/jobs",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, JobsOff, LiveStoreUnavailable),
)
async def list_jobs(jobs: JobsDep, limit: Limit = 50, cursor: Cursor = None) -> JobPage:
    """List jobs, the newest first; the last 200 that have ended are kept."""
    skip = int(cursor or 0)
    found = await jobs.newest(skip, limit)
    return JobPage(jobs=found, next_cursor=str(skip + limit) if len(found) == limit else None)


@router.post(
    "/v1/jobs/{job_id:word}:cancel",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, JobNotFound, JobFinished, JobsOff, LiveStoreUnavailable, AuditLogUnavailable),
)
async def cancel_job(job_id: JobId, jobs: JobsDep, audit: AuditDep) -> JobDetails:
    """Cancel a job: one that waits at once, one that runs within seconds, as its worker hears of it."""
    await jobs.cancel(job_id)
    await audit.record(Change("job cancelled", job_id))
    return await _details(job_id, jobs)


@router.get(
    "/v1/jobs/{job_id:word}",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, JobNotFound, JobsOff, LiveStoreUnavailable),
)
async def show_job(job_id: JobId, jobs: JobsDep) -> JobDetails:
    """Return a job: its state, what it does now, its result or error, and its log."""
    return await _details(job_id, jobs)


async def _details(job_id: str, jobs: JobsDep) -> JobDetails:
    job, log = await jobs.find(job_id)
    return JobDetails(**job.model_dump(), log=log)
