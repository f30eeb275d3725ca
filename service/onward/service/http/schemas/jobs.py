"""Schemas of jobs."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from onward.bundle.jobs import Job
from onward.bundle.release_record import MAX_REASON
from onward.service.fields import StrictModel


class JobBody(StrictModel):
    """What a worker is to do: rebuild the current bundle with the live catalog, or fit to the newest events."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "rebuild", "reason": "new products"}, {"kind": "fit", "budget": "2h"}]}
    )

    kind: Literal["rebuild", "fit"] = Field(examples=["rebuild"])
    staged: bool = Field(default=False, description="Of a rebuild: publish without making it live.")
    fast: bool = Field(default=False, description="Of a rebuild: tune the index to a lower recall.")
    budget: Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,3}[smhd]$")] | None = Field(
        default=None, description="Of a fit: the time that it may take.", examples=["2h"]
    )
    reason: Annotated[str, StringConstraints(min_length=1, max_length=MAX_REASON)] | None = Field(
        default=None, examples=["new products"]
    )

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Self:
        if self.kind == "fit" and (self.staged or self.fast):
            raise ValueError("staged and fast are options of a rebuild; a fit is staged until it passes the gate")
        if self.kind == "rebuild" and self.budget is not None:
            raise ValueError("budget is an option of a fit")
        return self

    def options(self) -> dict[str, bool | str]:
        """Return the options that were given."""
        given: dict[str, bool | str] = {name: True for name in ("staged", "fast") if getattr(self, name)}
        return given if self.budget is None else given | {"budget": self.budget}


class JobDetails(Job):
    """A job and the newest lines of its log."""

    log: list[str] = Field(description="The newest 300 lines.", examples=[["checking the current bundle"]])


class JobPage(BaseModel):
    """Jobs, the newest first."""

    jobs: list[Job]
    next_cursor: str | None = Field(default=None, description="For the next page; absent on the last.")
