"""The price table of a plan."""

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward.bundle.validation import message_of


class PriceError(Exception):
    """A price table cannot be used; the message says why, in one line."""


class Prices(BaseModel):
    """Prices in one currency; `prices.toml` explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str
    core_hour: float = Field(ge=0)
    memory_gib_hour: float = Field(ge=0)
    store_gib_hour: float = Field(ge=0)
    object_gib_month: float = Field(ge=0)


def read_prices(path: Path | None = None) -> Prices:
    """Read a price table, by default that of the package. Raises PriceError."""
    try:
        text = (path or files("onward.service.planning").joinpath("prices.toml")).read_text(encoding="utf-8")
        return Prices.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PriceError(f"{path}: {'.'.join(map(str, first['loc']))}: {message_of(first)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"{path}: is not TOML: {error}") from None
    except OSError as error:
        raise PriceError(f"{path}: {error.strerror}") from None
