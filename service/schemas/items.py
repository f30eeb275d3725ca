"""Bodies about items."""

from typing import Any

from pydantic import BaseModel, Field

from service.bundle import Source
from service.schemas.base import BundleDigest, Count, Excluded, K, QueryString, TookMs


class ListQuery(QueryString):
    """Options of every list of items."""

    k: K = 20
    exclude: Excluded = Field(default=[])


class RecommendedItem(BaseModel):
    """One item of an answer."""

    id: str = Field(examples=["item-42"])
    score: float = Field(description="Larger is better; comparable within one answer.", examples=[7.31])
    rank: int = Field(description="From 1.", examples=[1])
    source: Source = Field(description="What brought the item.")
    interest: int | None = Field(default=None, description="Which of the session's interests brought it.", examples=[0])
    attributes: dict[str, Any] | None = Field(
        default=None, description="What the catalog knows of it.", examples=[{"title": "Blue mug", "price": 12.5}]
    )


class ItemList(BaseModel):
    """Items, best first."""

    bundle: BundleDigest
    items: list[RecommendedItem] = Field(
        examples=[[{"id": "item-42", "score": 0.93, "rank": 1, "source": "similar", "attributes": {"price": 12.5}}]]
    )
    count: Count
    took_ms: TookMs
