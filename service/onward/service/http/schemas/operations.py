"""Bodies of operations."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class Version(BaseModel):
    """What runs."""

    service: str = Field(examples=["0.1.0"])
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    model: str | None = Field(default=None, examples=["srgnn"])
    created: datetime | None = Field(
        default=None, description="When the bundle was exported.", examples=["2026-11-22T09:30:00Z"]
    )
    items: int | None = Field(default=None, examples=[43097])
    metrics: dict[str, float] | None = Field(
        default=None,
        description="From training's validation, as the bundle's manifest explains; not of the index that serves.",
        examples=[{"recall@20": 0.5}],
    )


class RefusedBundle(BaseModel):
    """A bundle that must not serve."""

    bundle: str
    reason: str = Field(examples=["ids.txt: its SHA-256 is not the one in manifest.json"])


class Health(BaseModel):
    """The state of this process."""

    status: Literal["live", "ready"]
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    refused: RefusedBundle | None = Field(default=None, description="The newest bundle, where it could not go live.")
