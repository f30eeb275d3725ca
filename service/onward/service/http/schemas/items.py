"""Bodies about items."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

from onward.bundle import Source
from onward.service.fields import K
from onward.service.http.schemas.base import BundleDigest, Count, Excluded, QueryString, TookMs


class ListQuery(QueryString):
    """Options of every list of items."""

    k: K = 20
    exclude: Excluded = Field(default=[])


@dataclass(slots=True)
class RecommendedItem:
    """One item of an answer. No model, since an answer has many and they need no validation."""

    id: Annotated[str, Field(examples=["item-42"])]
    score: Annotated[float, Field(description="Larger is better; comparable within one answer.", examples=[7.31])]
    rank: Annotated[int, Field(description="From 1.", examples=[1])]
    source: Annotated[Source, Field(description="What brought the item.")]
    interest: Annotated[int | None, Field(description="Which of the session's interests brought it.", examples=[0])] = (
        None
    )
    attributes: Annotated[
        Mapping[str, Any] | None,
        Field(description="What the catalog knows of it.", examples=[{"title": "Blue mug", "price": 12.5}]),
    ] = None


class ItemList(BaseModel):
    """Items, best first."""

    bundle: BundleDigest
    items: list[RecommendedItem] = Field(
        examples=[[{"id": "item-42", "score": 0.93, "rank": 1, "source": "similar", "attributes": {"price": 12.5}}]]
    )
    count: Count
    took_ms: TookMs
