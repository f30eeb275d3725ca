"""Explanation of an answer: contributions, boosts, ranks, and why an item is missing."""

from typing import Literal

from pydantic import BaseModel, Field

from onward.bundle.search.retrieval import Source

Reason = Literal[
    "shown",
    "unknown_item",
    "deleted",
    "unavailable",
    "no_vector",
    "filtered",
    "excluded",
    "shown_before",
    "disliked",
    "purchased",
    "seen",
    "diversity",
    "pin",
    "outranked",
]


class Contribution(BaseModel):
    """How much an event of the session adds to an item's score."""

    item_id: str = Field(description="The event's item.", examples=["item-17"])
    place: int = Field(description="Place of the event in the session; 0 is the oldest.", examples=[2])
    contribution: float = Field(
        description="The item's score minus its score without this event; of a session's only event, the whole score.",
        examples=[1.73],
    )


class AttributeContribution(BaseModel):
    """How much an attribute adds to the score of an item whose vector was computed from its attributes."""

    attribute: str = Field(examples=["category"])
    contribution: float = Field(
        description="The item's inner product with the session minus that without this attribute.", examples=[0.42]
    )


class ExplainedItem(BaseModel):
    """Why an item has its rank."""

    id: str = Field(examples=["item-42"])
    rank: int = Field(examples=[1])
    score: float = Field(description="The score in the answer.", examples=[7.31])
    source: Source
    interest: int | None = Field(
        default=None, description="Which of the session's interests retrieved the item, from 0.", examples=[0]
    )
    boost: float | None = Field(
        default=None, description="What boosts added to the score: the sum of ln(factor).", examples=[0.69]
    )
    place_before_diversity: int | None = Field(
        default=None, description="Rank by boosted score, from 1, if diversity or pins moved the item.", examples=[4]
    )
    contributions: list[Contribution] | None = Field(
        default=None,
        description="For an item that the encoder retrieved: one per event, the largest first.",
        examples=[[{"item_id": "item-17", "place": 0, "contribution": 1.73}]],
    )
    content: list[AttributeContribution] | None = Field(
        default=None,
        description="For an item that the encoder retrieved by a vector computed from its attributes: one per "
        "attribute, the largest first.",
        examples=[[{"attribute": "category", "contribution": 0.42}]],
    )


class WhyNot(BaseModel):
    """Why an item is not in the answer, or its rank if it is."""

    id: str = Field(examples=["item-99"])
    reason: Reason = Field(
        description="The first that applies: the catalog lacks the item, a rule excludes it, diversity or pins took "
        "its place, or others rank higher."
    )
    condition: str | None = Field(
        default=None,
        description="For a filtered item: the location in the filter of the condition that the item fails.",
        examples=["filter.and.1"],
    )
    pins: list[str] | None = Field(
        default=None,
        description="For an item whose place pins took: the pinned items that rank below it, in the order shown.",
        examples=[["item-5"]],
    )
    rank: int | None = Field(
        default=None, description="Rank by boosted score among all eligible items, from 1.", examples=[37]
    )
    score: float | None = Field(default=None, description="The score, including boosts.", examples=[2.05])


class ItemExplanation(WhyNot):
    """The place of an item in the answer to a query, or why it is not there."""

    bundle: str = Field(description="Digest of the bundle that answered.", examples=["5d13bce372cd0407..."])
    session: list[str] = Field(
        description="The items that the answer is based on, oldest first.", examples=[["item-17"]]
    )
    contributions: list[Contribution] | None = Field(
        default=None,
        description="What each event adds to the item's score by the encoder, the largest first; absent if the encoder "
        "knows nothing of the session.",
        examples=[[{"item_id": "item-17", "place": 0, "contribution": 1.73}]],
    )
    content: list[AttributeContribution] | None = Field(
        default=None, description="For an item whose vector was computed from its attributes: what each adds."
    )


class Explanation(BaseModel):
    """Why each item of an answer has its rank."""

    recommendation_id: str = Field(examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e510800"])
    bundle: str = Field(
        description="Digest of the bundle that answered.", examples=["5d13bce372cd0407de27cf50648fc2c7"]
    )
    session: list[str] = Field(
        description="The items that the answer is based on, oldest first.", examples=[["item-17"]]
    )
    items: list[ExplainedItem]
    why_not: WhyNot | None = Field(
        default=None, examples=[{"id": "item-99", "reason": "outranked", "rank": 37, "score": 2.05}]
    )
