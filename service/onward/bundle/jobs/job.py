"""Job: one piece of work for a worker, its state and what came of it."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

JobKind = Literal["rebuild", "fit", "activate", "protect", "unprotect", "remove"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")


class Job(BaseModel):
    """A job as it is stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(examples=["20261122T093000-4f0c2a9e"])
    kind: str = Field(
        description="rebuild or fit; also activate, protect, unprotect and remove, by which a worker does to the "
        "folder of bundles what a service that may not write there was asked for.",
        examples=["rebuild"],
    )
    options: dict[str, Any] = Field(default_factory=dict, examples=[{"staged": True}])
    state: JobState = Field(examples=["running"])
    created: AwareDatetime = Field(examples=["2026-11-22T09:30:00Z"])
    by: str | None = Field(default=None, description="Who asked for it.", examples=["first"])
    reason: str | None = Field(default=None, description="Why.", examples=["new products"])
    tries: int = Field(default=0, description="How often a worker took it.", examples=[1])
    worker: str | None = Field(default=None, description="The worker that took it last.", examples=["host-7-1"])
    started: AwareDatetime | None = Field(default=None, examples=["2026-11-22T09:30:01Z"])
    finished: AwareDatetime | None = None
    step: str | None = Field(default=None, description="What it does now.", examples=["measuring indexes"])
    result: str | None = Field(default=None, description="Of a rebuild or fit the digest of the new bundle.")
    error: str | None = Field(default=None, description="Why it failed.")
    cancelling: bool = Field(default=False, description="Whether its worker has been asked to end it.")


def new_job(
    kind: JobKind,
    options: Mapping[str, Any],
    *,
    by: str | None = None,
    reason: str | None = None,
    job_id: str | None = None,
) -> Job:
    """Return a job that waits; its id is a time and chance, unless one is given."""
    now = datetime.now(UTC).replace(microsecond=0)
    return Job(
        id=job_id or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        kind=kind,
        options=dict(options),
        state="waiting",
        created=now,
        by=by,
        reason=reason,
    )


def stored_fields(job: Job) -> list[str]:
    """Return the names and texts of a new job's fields, in turn."""
    fields = job.model_dump(mode="json", exclude_none=True, exclude={"cancelling"})
    fields["options"] = json.dumps(job.options)
    return [text for name, value in fields.items() for text in (name, str(value))]


def job_of(fields: list[Any]) -> Job | None:
    """Return the job of the names and texts of its fields, None if there are none or they cannot be read."""
    texts = [field.decode(errors="replace") if isinstance(field, bytes) else str(field) for field in fields]
    values: dict[str, Any] = {name: text for name, text in zip(texts[::2], texts[1::2], strict=True) if text}
    for name in ("started", "finished"):
        if name in values and values[name].isdecimal():
            values[name] = datetime.fromtimestamp(int(values[name]), UTC)
    try:
        return Job.model_validate(values | {"options": json.loads(values.get("options", "{}"))})
    except (ValidationError, ValueError):
        return None
