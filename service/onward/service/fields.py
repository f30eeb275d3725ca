"""Field types that the core and the HTTP schemas share: ids, k and the base of strict models."""

from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from onward.bundle.files.id_rule import MAX_ID_LENGTH, checked_id

MAX_K = 100
EMPTY_LIST: Any = ()
"""Default of an absent list: a tuple, since pydantic would copy a list for every request."""
ID_FORMAT = "id"
"""Format of ids in the OpenAPI document: no regular expression can say which texts are in NFC."""


Id = Annotated[
    str,
    AfterValidator(checked_id),
    Field(
        description="1 to 128 code points in Unicode normalization form C, without control characters, line and "
        "paragraph separators, surrogates, noncharacters, U+FEFF and U+FFFD; compared byte for byte.",
        json_schema_extra={"minLength": 1, "maxLength": MAX_ID_LENGTH, "format": ID_FORMAT},
    ),
]
K = Annotated[int, Field(ge=1, le=MAX_K, description="Number of items to return.")]


class StrictModel(BaseModel):
    """A model read from JSON: no conversion between types, no unknown field, no NaN or infinity, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@cache
def known_fields() -> frozenset[str]:
    """Return the names of the fields of all strict models."""
    models: list[type[BaseModel]] = [StrictModel]
    for model in models:
        models += model.__subclasses__()
    return frozenset(name for model in models for name in model.model_fields)
