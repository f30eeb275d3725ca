"""Schemas of releases: bundles with their states, and the changes of them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from onward.bundle import GateReport
from onward.bundle.release_record import MAX_REASON, ReleaseEvent
from onward.bundle.releases import Release, State
from onward.service.fields import StrictModel

DIGEST = "5d13bce372cd0407de27cf50648fc2c7f1a7b16a3a1d4e5f60718293a4b5c6d7"


Reason = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REASON)]


class ReleasedBundle(BaseModel):
    """A bundle and its state."""

    bundle: str = Field(description="Its digest.", examples=[DIGEST])
    state: State = Field(
        description="staged: never live; live: answers come from it; retired: was live, is kept to roll back to; "
        "removed: its files are gone.",
        examples=["live"],
    )
    protected: bool = Field(description="Whether it must not be removed.", examples=[False])
    last_live: datetime | None = Field(
        default=None,
        description="When it was live last; of the live one, when it went live.",
        examples=["2026-11-22T09:31:00Z"],
    )
    model: str | None = Field(default=None, examples=["srgnn"])
    created: datetime | None = Field(default=None, description="When it was made.", examples=["2026-11-22T09:30:00Z"])
    items: int | None = Field(default=None, examples=[43097])
    size: int | None = Field(default=None, description="Bytes of all files.", examples=[61_000_000])
    gate_passed: bool | None = Field(
        default=None, description="Whether it passed the gate; null if it has not been through it.", examples=[True]
    )
    gate_time: datetime | None = Field(default=None, description="When.", examples=["2026-11-22T09:30:30Z"])
    overridden: str | None = Field(
        default=None, description="What the gate found, if it last went live by force.", examples=["no report"]
    )

    @classmethod
    def of(cls, release: Release, bundles: Path, state: State | None = None) -> Self:
        """Describe a release of a folder. Raises BundleError if its gate report is damaged."""
        return cls(**_fields(release, GateReport.read(bundles, release.digest), state))


class BundleDetails(ReleasedBundle):
    """A bundle, what has happened to it, and what the gate measured."""

    unfinished: bool = Field(description="Whether its training was interrupted.", examples=[False])
    events: list[ReleaseEvent] = Field(
        description="What has happened to it, oldest first; empty for bundles of version 0.1.",
        examples=[[{"what": "activated", "time": "2026-11-22T09:31:00Z", "by": "first", "reason": "new season"}]],
    )
    gate: GateReport | None = Field(default=None, description="What the gate measured.")

    @classmethod
    def of(cls, release: Release, bundles: Path, state: State | None = None) -> Self:
        """Describe a release of a folder. Raises BundleError if its gate report is damaged."""
        report, record = GateReport.read(bundles, release.digest), release.record
        return cls(
            **_fields(release, report, state), unfinished=record.unfinished, events=list(record.events), gate=report
        )


class ReleasedBundles(BaseModel):
    """All bundles: the live one, staged ones, retired ones, removed ones; of each the newest first."""

    bundles: list[ReleasedBundle]
    count: int = Field(examples=[1])


class ReasonBody(StrictModel):
    """Why a change is made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "shows no cups"}]})

    reason: Reason | None = Field(default=None, description="Why: for the record of the bundle and the audit log.")


class ActivationBody(ReasonBody):
    """Why a bundle goes live, and whether by force."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "new season"}]})

    force: bool = Field(default=False, description="Although it has not passed the gate; needs a reason.")

    @model_validator(mode="after")
    def _reason_for_force(self) -> Self:
        if self.force and self.reason is None:
            raise ValueError("force needs a reason")
        return self


class ProtectionBody(ReasonBody):
    """Whether a bundle is protected, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"protected": True, "reason": "of the summer sale"}]})

    protected: bool = Field(default=True, description="false ends the protection.")


def _fields(release: Release, report: GateReport | None, state: State | None) -> dict[str, Any]:
    record, event = release.record, release.record.last("activated")
    return {
        "bundle": release.digest,
        "state": state or release.state,
        "protected": release.is_protected,
        "last_live": release.last_live,
        "model": record.model,
        "created": record.created,
        "items": record.items,
        "size": record.size,
        "gate_passed": None if report is None else report.passed,
        "gate_time": None if report is None else report.created,
        "overridden": None if event is None else event.overridden,
    }
