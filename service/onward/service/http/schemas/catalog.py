"""Schemas of the live catalog: items read and changed while the service runs."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from onward.bundle.catalog.cold_start import VectorSource
from onward.service.fields import Id, StrictModel
from onward.service.http.schemas.base import BundleDigest, Cursor, Limit, NextCursor, QueryString
from onward.service.http.schemas.entries import EntryProblem, InvalidEntry, validated_alone
from onward.service.live.catalog import MAX_ATTRIBUTES, ItemPatch

MAX_BATCH = 1_000
MAX_QUERY = 200
MAX_SIMILAR_TO = 20
MAX_TEXT = 1_000
MAX_TEXTS = 100
LARGEST_INTEGER = 2**63 - 1
ATTRIBUTE_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
AVAILABLE = "available"

_NAME = re.compile(ATTRIBUTE_NAME)
_TEXT_SCHEMA = {"type": "string", "maxLength": MAX_TEXT}
_VALUE_SCHEMA = {
    "anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "number", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER},
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "maxItems": MAX_TEXTS},
    ]
}
_ATTRIBUTES_SCHEMA = {
    "type": "object",
    "maxProperties": MAX_ATTRIBUTES,
    "propertyNames": {"pattern": ATTRIBUTE_NAME, "not": {"const": AVAILABLE}},
    "additionalProperties": _VALUE_SCHEMA,
    "description": "Attributes to set, by name; null removes one. A known attribute keeps its kind: a number, a "
    "string, a list of strings, a boolean or a date as text. New names may be added.",
    "examples": [{"price": 12.5, "category": "mugs", "tags": ["blue", "gift"], "colour": None}],
}


def _require_attributes(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PydanticCustomError("attributes", "attributes are an object")
    if len(value) > MAX_ATTRIBUTES:
        raise PydanticCustomError("attributes", "at most {most} attributes", {"most": MAX_ATTRIBUTES})
    for name, attribute in value.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise PydanticCustomError(
                "attribute_name", "an attribute's name is a letter or _ and up to 63 letters, digits and _ behind it"
            )
        if name == AVAILABLE:
            raise PydanticCustomError("attribute_name", "give available beside the attributes, not among them")
        if not _is_value(attribute):
            raise PydanticCustomError(
                "attribute_value",
                "{name}: a value is null, a boolean, a finite number, a string of at most {text} characters or a list "
                "of at most {texts} such strings",
                {"name": name, "text": MAX_TEXT, "texts": MAX_TEXTS},
            )
    return value


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_TEXTS and all(_is_text(text) for text in value)
    if isinstance(value, float):  # compared as floats, as JSON schema validators compare them
        return abs(value) <= float(LARGEST_INTEGER)
    if isinstance(value, int):
        return abs(value) <= LARGEST_INTEGER
    return value is None or _is_text(value)


def _is_text(value: Any) -> bool:
    """Return whether a value is text that UTF-8 can encode, which a lone surrogate is not."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and not any("\ud800" <= char <= "\udfff" for char in value)


class ItemBody(StrictModel):
    """Changes of an item; absent fields keep their values. A deleted item starts without its earlier changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"available": False},
                {"attributes": {"price": 9.5, "category": "mugs"}, "similar_to": ["item-17"]},
            ]
        }
    )

    attributes: Annotated[dict[str, Any], PlainValidator(_require_attributes), WithJsonSchema(_ATTRIBUTES_SCHEMA)] = (
        Field(default={})
    )
    available: bool | None = Field(default=None, description="Whether the item may be shown.")
    similar_to: list[Id] | None = Field(
        default=None,
        max_length=MAX_SIMILAR_TO,
        description="For a new item: similar items, the mean of whose vectors becomes its vector. Without them the "
        "vector is made from items that co-occur with it in sessions or, until there are enough, that share its "
        "attributes.",
        examples=[["item-17", "item-3"]],
    )

    def as_patch(self) -> ItemPatch:
        """Return the changes in the form that the live catalog takes."""
        return ItemPatch(self.attributes, self.available, self.similar_to)


class ItemEntry(ItemBody):
    """An item of a batch and its changes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "item-17", "attributes": {"price": 9.5}, "available": True}]}
    )

    id: Id


class ItemsBody(StrictModel):
    """Changes of many items; each entry succeeds or fails alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"id": "item-17", "available": False},
                        {"id": "new-1", "attributes": {"category": "mugs"}, "similar_to": ["item-3"]},
                    ]
                }
            ]
        }
    )

    items: list[Annotated[ItemEntry | InvalidEntry, validated_alone(ItemEntry)]] = Field(
        min_length=1, max_length=MAX_BATCH
    )


class ItemResult(BaseModel):
    """The result of one entry."""

    id: str | None = Field(default=None, description="Absent if the entry has no valid id.", examples=["item-17"])
    status: Literal["stored", "rejected"]
    error: EntryProblem | None = None


class ItemResults(BaseModel):
    """The result of each entry, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"results": [{"id": "item-17", "status": "stored"}], "stored": 1, "rejected": 0},
                {
                    "results": [
                        {"id": "item-17", "status": "stored"},
                        {
                            "status": "rejected",
                            "error": {
                                "code": "invalid_request",
                                "detail": "The entry violates the schema in 1 place.",
                                "errors": [{"at": "similar_to.0", "message": "Input should be a valid string"}],
                            },
                        },
                    ],
                    "stored": 1,
                    "rejected": 1,
                },
            ]
        }
    )

    results: list[ItemResult]
    stored: int = Field(examples=[1])
    rejected: int = Field(examples=[0])


class VectorOrigin(BaseModel):
    """Where an item's vector comes from."""

    source: Literal["training", VectorSource] = Field(
        description="`training`, or for a new item what its vector was made from: items that it is said to be "
        "similar to or was seen with, its attributes by the content program, or items that share its attributes."
    )
    neighbours: list[str] | None = Field(
        default=None,
        description="For a new item: the items whose vectors were averaged, largest weight first; null for `content`.",
        examples=[["item-17"]],
    )


class Item(BaseModel):
    """The current state of an item."""

    id: str = Field(examples=["item-17"])
    bundle: BundleDigest
    attributes: dict[str, Any] = Field(examples=[{"title": "Blue mug", "price": 12.5}])
    available: bool = Field(examples=[True])
    recommendable: bool = Field(examples=[True])
    not_recommendable: Literal["unavailable", "no_vector"] | None = Field(
        default=None,
        description="Why the item cannot be recommended: it is marked unavailable, or nothing is known yet to make a "
        "vector from.",
    )
    popularity: float = Field(
        description="Popularity in the bundle's training data; 0 for a new item.", examples=[17.0]
    )
    vector: VectorOrigin | None = Field(
        default=None, description="Absent if the item has no vector.", examples=[{"source": "training"}]
    )


class ItemsQuery(QueryString):
    """Which items to list."""

    query: str = Field(
        default="",
        max_length=MAX_QUERY,
        description="An id, or words of the items' texts, the last of which may be a beginning; without it all items.",
        examples=["blue mu"],
    )
    changed: bool = Field(
        default=False, description="Only items that were changed or added since the bundle was built."
    )
    cursor: Cursor = None
    limit: Limit = 20


class FoundItems(BaseModel):
    """Items as they are now, the most popular first, new ones last."""

    bundle: BundleDigest
    items: list[Item]
    next_cursor: NextCursor = None
    degraded: list[Literal["index"]] = Field(
        description="`index`: the texts are being indexed, so that only the item of this id is found; ask again.",
        examples=[[]],
    )
