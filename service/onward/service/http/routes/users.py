"""Endpoint of users: erase what is stored of one."""

from fastapi import APIRouter, Response

from onward.service.errors import AuditLogUnavailable, SessionStoreUnavailable
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import PATH_PROBLEMS, AuditDep, RecorderDep, StoreDep, UserId
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.records.audit_log import Change
from onward.service.records.user_sessions import user_digest

router = APIRouter(route_class=StrictJSONRoute, tags=["users"])


@router.delete(
    "/v1/users/{user_id:id}",
    status_code=204,
    response_class=Response,
    responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable, AuditLogUnavailable),
)
async def erase_user(user_id: UserId, store: StoreDep, recorder: RecorderDep, audit: AuditDep) -> None:
    """Erase the sessions and answers of all recommendations that were made with a `user_id`.

    Succeeds even if nothing is stored. What is counted already stays counted, without the user. Sessions of the user
    for which no recommendation was made with this `user_id` must be erased by themselves.
    """
    for session in await recorder.sessions_of(user_id):
        await store.erase(session)
        await recorder.forget_digest(session)
    await recorder.forget_user(user_id)
    await audit.record(Change("user erased", user_digest(user_id)))
