"""Schemas of item lists and of the items in an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from onward.bundle import Source
from onward.service.fields import K
from onward.service.http.schemas.base import BundleDigest, Count, Excluded, QueryString, TimeoutMs, TookMs


class ListQuery(QueryString):
    """Query parameters that all item lists share."""

    k: K = 20
    exclude: Excluded = Field(default=[])
    timeout_ms: TimeoutMs = None


@dataclass(slots=True)
class RecommendedItem:
    """One item of an answer; a dataclass, since an answer holds many and none needs validation."""

    id: Annotated[str, Field(examples=["item-42"])]
    score: Annotated[float, Field(description="Larger is better; comparable within one answer.", examples=[7.31])]
    rank: Annotated[int, Field(description="From 1.", examples=[1])]
    source: Annotated[
        Source, Field(description="What retrieved the item: the encoder, similarity to an item, popularity or a pin.")
    ]
    interest: Annotated[
        int | None, Field(description="Which of the session's interests retrieved the item, from 0.", examples=[0])
    ] = None
    attributes: Annotated[
        Mapping[str, Any] | None,
        Field(description="The item's attributes in the catalog.", examples=[{"title": "Blue mug", "price": 12.5}]),
    ] = None


class ItemList(BaseModel):
    """Items, best first."""

    bundle: BundleDigest
    items: list[RecommendedItem] = Field(
        examples=[[{"id": "item-42", "score": 0.93, "rank": 1, "source": "similar", "attributes": {"price": 12.5}}]]
    )
    count: Count
    degraded: list[Literal["deadline"]] = Field(
        description="What this list was made without: the time for more than popular items.", examples=[[]]
    )
    took_ms: TookMs
