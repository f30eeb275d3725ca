"""Schemas of operations: version and health."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class Version(BaseModel):
    """The running service and its live bundle."""

    service: str = Field(examples=["0.1.0"])
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    model: str | None = Field(default=None, examples=["srgnn"])
    created: datetime | None = Field(
        default=None, description="When the bundle was exported.", examples=["2026-11-22T09:30:00Z"]
    )
    items: int | None = Field(default=None, examples=[43097])
    metrics: dict[str, float] | None = Field(
        default=None,
        description="Validation metrics of training, from the bundle's manifest; not measured with the serving index.",
        examples=[{"recall@20": 0.5}],
    )

    age_seconds: int | None = Field(default=None, description="Seconds since the bundle was exported.", examples=[3600])
    activated: datetime | None = Field(
        default=None, description="When the bundle went live.", examples=["2026-11-22T09:31:00Z"]
    )
    gate_passed: bool | None = Field(
        default=None, description="Whether it passed the gate; absent if it has not been through it.", examples=[True]
    )
    gate_time: datetime | None = Field(default=None, description="When.", examples=["2026-11-22T09:30:30Z"])


class RefusedBundle(BaseModel):
    """A bundle that was refused, and why."""

    bundle: str
    reason: str = Field(examples=["ids.txt: its SHA-256 is not the one in manifest.json"])


class Health(BaseModel):
    """The state of this process."""

    status: Literal["live", "ready"]
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    refused: RefusedBundle | None = Field(default=None, description="The newest bundle, if it was refused.")
    store_misconfigured: str | None = Field(
        default=None, description="Why the store refuses the service: its password, rights, database or kind."
    )
    refused_keys: str | None = Field(
        default=None, description="Why the file of keys is not used as it is now; the keys read before stay valid."
    )
