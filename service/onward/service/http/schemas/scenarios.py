"""Bodies of scenarios."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from onward.service.recommend.options import RecommendationOptions

SCENARIO_NAME = r"^[a-z][a-z0-9_-]{0,63}$"

ScenarioName = Annotated[str, StringConstraints(pattern=SCENARIO_NAME)]


class ScenarioBody(RecommendationOptions):
    """The options that a recommendation has where its request does not give them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"k": 10, "exclude_seen": "purchased", "diversity": 0.3},
                {"k": 4, "pin": [{"id": "item-17", "position": 1}], "variant": "b"},
            ]
        }
    )


class StoredScenario(BaseModel):
    """A scenario as it is stored."""

    name: str = Field(examples=["product-page"])
    version: int = Field(description="How often one was stored under this name; as in ETag.", examples=[1])
    options: RecommendationOptions = Field(examples=[{"k": 10, "exclude_seen": "purchased"}])


class StoredScenarios(BaseModel):
    """Every scenario, by name."""

    scenarios: list[StoredScenario]
    count: int = Field(examples=[1])
