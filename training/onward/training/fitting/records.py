"""What a fit has done and found so far: the content of `fit.json`, from which it is resumed and its page is made."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from onward.bundle import GateReport
from onward.training.atomic_file import write_text
from onward.training.errors import InputError

RECORD = "fit.json"
METRIC = "ndcg@20"
"""What candidates are compared by: it counts whether the next item is in the list, and how high."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Skipped(_Record):
    """A candidate that was not tried, or not in full, and why."""

    candidate: str
    why: str


class Rung(_Record):
    """Trainings of several candidates that are compared with each other."""

    share: float
    """Share of the training sessions that candidates learn from, the newest ones."""
    epochs: float
    """Share of the epochs of their recipes."""
    candidates: tuple[str, ...]
    """Those of the first rung; a later one is entered by the best of the rung before."""
    keep: int
    """How many networks go on to the next rung."""


class Plan(_Record):
    """What the budget allows."""

    costs: dict[str, float]
    """Expected seconds of a training in full, by candidate."""
    rungs: tuple[Rung, ...]
    skipped: tuple[Skipped, ...]
    final_epochs: float = 1.0
    """Share of the epochs of its recipe that the chosen network is trained for in the end."""


class Trial(_Record):
    """The training of a candidate in a rung."""

    candidate: str
    rung: int
    epochs: int
    best_epoch: int
    seconds: float
    metrics: dict[str, float]
    """Of the examples that candidates are compared on; empty if it failed."""
    curve: tuple[float, ...]
    """The validation metric of its recipe after each epoch."""
    failure: str | None = None


class Compared(_Record):
    """A candidate, or several joined, beside the best one: the metric of the best one minus its own."""

    members: tuple[str, ...]
    session_weight: float | None
    """The weight of nearest sessions that join networks."""
    metrics: dict[str, float]
    difference: float
    error: float
    """Standard error of the difference."""

    @property
    def name(self) -> str:
        """The names of its members."""
        return " + ".join(self.members)


class Choice(_Record):
    """What was chosen, and among what: the simplest one whose distance from the best is within its error."""

    chosen: int
    best: int
    compared: tuple[Compared, ...]
    """From the simplest to the most complex."""

    @property
    def winner(self) -> Compared:
        """The one that was chosen."""
        return self.compared[self.chosen]


class FitRecord(_Record):
    """The state of a fit."""

    format_version: Literal[1] = 1
    data: str
    data_fingerprint: str
    seed: int
    budget_s: float
    spent_s: float = 0.0
    adapted: tuple[str, ...] = ()
    """Defaults that follow the data, a line each."""
    examples: int = 0
    """Validation examples that candidates are compared on."""
    left_out: str = ""
    """What answers leave out by default."""
    floor: dict[str, dict[str, float]] = {}
    """Metrics of the baselines on the same examples."""
    plan: Plan | None = None
    trials: tuple[Trial, ...] = ()
    choice: Choice | None = None
    final_runs: tuple[str, ...] = ()
    bundle: str | None = None
    """Digest of the published bundle."""
    gate: GateReport | None = None
    gate_fault: str | None = None
    """Why the bundle was not made live; None if it was."""
    live: bool = False

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record in a folder. Raises InputError if there is none, or it is damaged."""
        try:
            return cls.model_validate_json((folder / RECORD).read_bytes())
        except FileNotFoundError as error:
            raise InputError(
                f"{folder}: holds no fit ({RECORD} is missing); leave out --resume to begin one"
            ) from error
        except ValidationError as error:
            raise InputError(f"{folder / RECORD}: is damaged; remove the folder and fit again") from error

    def write(self, folder: Path) -> None:
        """Write the record to a folder."""
        write_text(folder / RECORD, self.model_dump_json(indent=2) + "\n")
