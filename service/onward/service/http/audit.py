"""Auditor: writes the changes of a request to the audit log."""

from fastapi import Request

from onward.service import telemetry
from onward.service.http.admission.caller import client_address
from onward.service.http.scopes import KEY
from onward.service.keys import Key
from onward.service.records.audit_log import Actor, AuditLog, Change


class Auditor:
    """Writes what a request has changed, with who sent it, before it is answered."""

    def __init__(self, request: Request) -> None:
        self._scope = request.scope
        self._log: AuditLog = request.scope["state"]["audit"]

    async def record(self, *changes: Change) -> None:
        """Write changes. Raises AuditLogUnavailable."""
        if self._log.is_on:
            key: Key | None = self._scope["state"].get(KEY)
            await self._log.record(
                Actor(
                    key=None if key is None else key.name,
                    tenant=None if key is None else key.tenant,
                    address=client_address(self._scope) or None,
                    request_id=telemetry.request_id(self._scope),
                ),
                changes,
            )


async def auditor(request: Request) -> Auditor:
    """Return the auditor of a request."""
    return Auditor(request)
