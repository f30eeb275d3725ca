"""Records of evaluations: one JSON file per run, one for the baselines of a data set, and one for its ladder."""

from pathlib import Path
from typing import Self, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from onward.bundle import IndexInfo
from onward.bundle.validation import message_of
from onward.training.errors import InputError
from onward.training.run_folder import REFIT

BASELINES, LADDER = "baselines.json", "ladder.json"


class _RecordModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Epoch(_RecordModel):
    """A point of the learning curve."""

    fit: str
    epoch: PositiveInt
    loss: float
    seconds: float
    examples_per_s: float
    learning_rate: float
    validation: dict[str, float] = {}
    """Empty in a refit."""


class TrainedOn(_RecordModel):
    """The hardware and software of the training."""

    processor: str
    device: str
    threads: PositiveInt
    torch: str


class _EvaluationRecord(_RecordModel):
    """What all records have: the data set, the code and the machine of the evaluation."""

    data: str
    """Name of the data set, which is the name of its folder."""
    data_fingerprint: str
    items: PositiveInt
    examples: PositiveInt
    """Number of examples of the test part."""
    sampled_examples: NonNegativeInt = 0
    """Number of examples that were drawn of them and evaluated; 0 if all were."""
    commit: str | None
    """Commit of the code that trained the run or computed the baselines; None outside a Git checkout."""
    machine: dict[str, str | int | float | None]
    recorded: AwareDatetime


class RunRecord(_EvaluationRecord):
    """A finished run and the metrics of its bundle on the test part, as fractions."""

    recipe: str
    recipe_text: str
    model: str
    seed: int
    bundle: str
    """The bundle's digest."""
    interests: PositiveInt
    dimension: PositiveInt
    index: IndexInfo
    served: dict[str, float]
    exact: dict[str, float]
    sampled: dict[str, float] = {}
    """Metrics among sampled items instead of all; empty if not requested."""
    standard_error: dict[str, float] = {}
    """Standard errors of the metrics as served, if examples were drawn."""
    validation: dict[str, float]
    """Validation metrics of the chosen epoch, by exact scores; empty if nothing was held out."""
    epochs_chosen: PositiveInt
    epochs_run: NonNegativeInt
    """Epochs of the fit that chose the epoch; 0 if an earlier run chose it."""
    epochs_at_most: PositiveInt
    curve: tuple[Epoch, ...] = Field(min_length=1)
    encode_p50_ms: float
    """Median time of the encoder, one session of 20 items at a time, on one thread."""
    trained_on: TrainedOn

    @property
    def refitted(self) -> bool:
        """Whether the weights are of a refit, which has learnt from the validation part too."""
        return any(epoch.fit == REFIT for epoch in self.curve)

    @property
    def seconds(self) -> float:
        """Training time of all fits, without validation."""
        return sum(epoch.seconds for epoch in self.curve)

    @property
    def examples_per_s(self) -> float:
        """Training speed, the mean over all epochs weighted by their time; 0 for a model without steps."""
        examples = sum(epoch.examples_per_s * epoch.seconds for epoch in self.curve)
        return examples / self.seconds if examples else 0

    def write(self, records: Path) -> Path:
        """Write `DATA/RECIPE-seedN.json` below `records`, replacing an existing one, and return its path."""
        return _write(self, records / self.data / f"{self.recipe}-seed{self.seed}.json")


class BaselinesRecord(_EvaluationRecord):
    """The metrics of the baselines on the test part, as fractions."""

    hide_seen: bool
    """Whether items of the session were excluded."""
    metrics: dict[str, dict[str, float]]
    standard_error: dict[str, dict[str, float]] = {}
    """Standard errors of the metrics, if examples were drawn."""

    def write(self, records: Path) -> Path:
        """Write `DATA/baselines.json` below `records`, replacing an existing one, and return its path."""
        return _write(self, records / self.data / BASELINES)


class LadderStep(_RecordModel):
    """One step of a ladder: a change that was tried on top of the last step that was kept."""

    step: str
    change: str
    """The change to the recipe."""
    validation: dict[str, float]
    """Validation metrics of the chosen epoch, as fractions."""
    seconds: float
    kept: bool


class Ladder(_RecordModel):
    """Changes to a recipe in the order in which they were tried, kept or not by validation alone."""

    note: str
    """What all steps have in common: epochs, seed, machine."""
    steps: tuple[LadderStep, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _steps_have_the_same_metrics(self) -> Self:
        if len({frozenset(step.validation) for step in self.steps}) > 1:
            raise ValueError("every step needs the same validation metrics")
        return self


class DataRecords(_RecordModel):
    """All records of one data set."""

    name: str
    runs: tuple[RunRecord, ...]
    baselines: BaselinesRecord | None
    ladder: Ladder | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the records in `folder`.

        Raises InputError if a file is not a record, or if records are of different versions of the data.
        """
        files = sorted(file for file in folder.glob("*.json") if file.name not in (BASELINES, LADDER))
        records = cls(
            name=folder.name,
            runs=tuple(_read(file, RunRecord) for file in files),
            baselines=_read_if_there(folder / BASELINES, BaselinesRecord),
            ladder=_read_if_there(folder / LADDER, Ladder),
        )
        records._check_same_data(folder)
        return records

    def _check_same_data(self, folder: Path) -> None:
        measured: list[RunRecord | BaselinesRecord] = [*self.runs, *([self.baselines] if self.baselines else [])]
        if len({record.data_fingerprint for record in measured}) > 1:
            versions = ", ".join(sorted({f"{record.data_fingerprint[:12]} ({_name(record)})" for record in measured}))
            raise InputError(f"{folder}: its records are of different data and cannot be compared: {versions}")


def read_records(folder: Path) -> list[DataRecords]:
    """Read the records below `folder`, by data set. Raises InputError if there are none, or one is damaged."""
    data_sets = [DataRecords.read(entry) for entry in sorted(folder.iterdir()) if any(entry.glob("*.json"))]
    if not data_sets:
        raise InputError(f"{folder}: holds no records; make some with `onward-training evaluate ... --record {folder}`")
    return data_sets


def _name(record: RunRecord | BaselinesRecord) -> str:
    return f"{record.recipe} seed {record.seed}" if isinstance(record, RunRecord) else "baselines"


AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def _read_if_there(file: Path, kind: type[AnyRecord]) -> AnyRecord | None:
    return _read(file, kind) if file.exists() else None


def _read(file: Path, kind: type[AnyRecord]) -> AnyRecord:
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or "content"
        raise InputError(f"{file}: {field}: {message_of(fault)}; record it again") from error


def _write(record: BaseModel, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path
