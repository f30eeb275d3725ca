"""What is known of a data set beforehand: its protocol, what was published on it, and what is aimed at."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from onward.bundle.validation import message_of
from onward.training.errors import InputError

FILE = "anchors.toml"


class _AnchorModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricColumn(_AnchorModel):
    """A metric that the page shows."""

    metric: str
    """As records name it: recall@20."""
    name: str
    """As the data set's papers name it: P@20."""


class Anchor(_AnchorModel):
    """A row of figures that were published, or are aimed at."""

    name: str
    figures: dict[str, float]
    """By metric, in the unit of the data set."""
    source: str
    comparable: bool = True
    """False where the protocol is another or unknown; such a row is shown, but nothing is measured by it."""


class DataSetProfile(_AnchorModel):
    """How a data set is shown; the defaults are for one that the file does not name."""

    title: str
    protocol: str
    columns: tuple[MetricColumn, ...] = Field(min_length=1)
    percent: bool
    """Whether figures, here and on the page, are percent rather than fractions."""
    published: tuple[Anchor, ...] = ()
    aims: tuple[Anchor, ...] = ()

    @property
    def scale(self) -> float:
        """What a fraction is multiplied by to be in the unit of the data set."""
        return 100.0 if self.percent else 1.0

    def text(self, figure: float) -> str:
        """A figure as tables show it."""
        return f"{figure:.2f}" if self.percent else f"{figure:.4f}"


def default_profile(name: str) -> DataSetProfile:
    """How a data set is shown that the file does not name."""
    return DataSetProfile(
        title=name,
        protocol="Full ranking over all items.",
        columns=(MetricColumn(metric="recall@20", name="Recall@20"), MetricColumn(metric="mrr@20", name="MRR@20")),
        percent=True,
    )


def read_anchors(records: Path) -> dict[str, DataSetProfile]:
    """What `anchors.toml` in the folder of records says, by data set; nothing where there is no such file.

    Raises InputError that names the key.
    """
    file = records / FILE
    if not file.exists():
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, DataSetProfile]).validate_python(table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not TOML: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{file}: {'.'.join(map(str, fault['loc']))}: {message_of(fault)}") from error
