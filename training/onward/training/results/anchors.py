"""The profile of a data set for the page of results: its protocol, published figures and aims, from anchors.toml."""

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
    """Its name in records: recall@20."""
    name: str
    """Its name in the data set's papers: P@20."""


class Anchor(_AnchorModel):
    """A row of published figures, or of aims."""

    name: str
    figures: dict[str, float]
    """Figures by metric, in the unit of the data set."""
    source: str
    comparable: bool = True
    """False if the protocol differs or is unknown; such a row is shown, but not compared with."""


class DataSetProfile(_AnchorModel):
    """How the page presents a data set."""

    title: str
    protocol: str
    columns: tuple[MetricColumn, ...] = Field(min_length=1)
    percent: bool
    """Whether figures, in the file and on the page, are percent instead of fractions."""
    refit_compares: bool = True
    """Whether runs whose refit has learnt from the validation part compare with published rows and aims. They do where
    that is part of the training days, as in session data; they do not where papers leave it out."""
    published: tuple[Anchor, ...] = ()
    aims: tuple[Anchor, ...] = ()

    @property
    def scale(self) -> float:
        """The factor from a fraction to the unit of the data set."""
        return 100.0 if self.percent else 1.0

    def text(self, figure: float) -> str:
        """Format a figure for a table."""
        return f"{figure:.2f}" if self.percent else f"{figure:.4f}"


def default_profile(name: str) -> DataSetProfile:
    """Return the profile of a data set that the file does not name."""
    return DataSetProfile(
        title=name,
        protocol="Full ranking over all items.",
        columns=(MetricColumn(metric="recall@20", name="Recall@20"), MetricColumn(metric="mrr@20", name="MRR@20")),
        percent=True,
    )


def read_anchors(records: Path) -> dict[str, DataSetProfile]:
    """Read the profiles in `anchors.toml` of the folder of records, by data set; empty if there is no such file.

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
