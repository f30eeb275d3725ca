"""Schemas of scenarios."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from onward.service.recommend.options import RecommendationOptions

SCENARIO_NAME = r"^[a-z][a-z0-9_-]{0,63}$"

ScenarioName = Annotated[str, StringConstraints(pattern=SCENARIO_NAME)]


class ScenarioBody(RecommendationOptions):
    """Default options of the recommendations that name the scenario; an option in a request overrides its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"k": 10, "exclude_seen": "purchased", "diversity": 0.3},
                {"k": 4, "pin": [{"id": "item-17", "position": 1}], "variant": "b"},
            ]
        }
    )


class StoredScenario(BaseModel):
    """A stored scenario."""

    name: str = Field(examples=["product-page"])
    version: int = Field(
        description="How many times options were stored under this name; also sent as the ETag.", examples=[1]
    )
    options: RecommendationOptions = Field(examples=[{"k": 10, "exclude_seen": "purchased"}])


class StoredScenarios(BaseModel):
    """All scenarios, sorted by name."""

    scenarios: list[StoredScenario]
    count: int = Field(examples=[1])
