"""Query strings of explanations; `recommend.explanation` defines the answers."""

from pydantic import Field

from onward.service.fields import Id
from onward.service.http.schemas.base import QueryString


class ExplanationQuery(QueryString):
    """What else is to be explained."""

    why_not: Id | None = Field(default=None, description="An item that the answer does not show.")
