"""Schemas of the audit log."""

from typing import Any

from pydantic import BaseModel, Field


class AuditedChange(BaseModel):
    """A change: who, what, before and after."""

    time: str = Field(examples=["2026-11-22T09:31:00.000Z"])
    key: str | None = Field(default=None, description="Name of the caller's key.", examples=["first"])
    tenant: str | None = None
    address: str | None = Field(default=None, description="The caller's address.", examples=["10.0.0.7"])
    request_id: str | None = None
    command: str | None = Field(default=None, description="The command, if it was none by REST.")
    user: str | None = Field(default=None, description="The account that gave the command.")
    what: str = Field(examples=["bundle activated"])
    id: str | None = Field(default=None, description="Of what.")
    before: Any = Field(default=None, description="The value before, null for none.")
    after: Any = Field(default=None, description="The value after, null for none.")


class AuditPage(BaseModel):
    """Changes, the newest first."""

    changes: list[AuditedChange]
    next_cursor: str | None = Field(default=None, description="For the next page; absent on the last.")
