"""Query strings of explanations; `recommend.explanation` defines the answers."""

from pydantic import Field

from onward.service.fields import Id
from onward.service.http.schemas.base import QueryString


class ExplanationQuery(QueryString):
    """Query parameters of an explanation."""

    why_not: Id | None = Field(
        default=None, description="An item to explain the absence of: why it is not in the answer."
    )
