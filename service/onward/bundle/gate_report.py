"""What training measured before a staged bundle may go live: the file `<digest>.gate.json` beside the bundle."""

from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from onward.bundle.files.manifest import BundleError
from onward.bundle.published import current_digest
from onward.bundle.validation import message_of


class Comparison(BaseModel):
    """A metric of the bundle minus that of a reference, on the same sessions, with its 95 % confidence interval."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    reference: str
    """`live`, or the name of a baseline."""
    metric: str
    difference: float
    low: float
    high: float
    passed: bool
    """Whether the bundle is not below the reference: by less than a margin, or by no more than chance explains."""


class RuleResult(BaseModel):
    """What a rule of the gate found: a figure of the bundle, beside that of the live one, and its bounds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: str
    figure: float
    live: float | None = None
    low: float | None = None
    high: float | None = None
    passed: bool

    def __str__(self) -> str:
        """Say what was found and what is asked for, in one line."""
        bounds = " and ".join(
            f"{words} {bound:.4g}"
            for words, bound in (("at least", self.low), ("at most", self.high))
            if bound is not None
        )
        live = "" if self.live is None else f", live {self.live:.4g}"
        return f"{self.name}: {self.figure:.4g}{live}{f', {bounds} is asked for' if bounds else ''}"


class GateReport(BaseModel):
    """The figures of a bundle, of the bundle that was live, and of baselines, on the same held-out sessions."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = 1
    created: AwareDatetime
    bundle: str
    """Its digest."""
    live: str | None
    """The digest of the bundle that was live, None if none was."""
    data_fingerprint: str
    part: str
    sessions: int
    examples: int
    figures: dict[str, dict[str, float]]
    """The metrics of `bundle`, of `live`, and of each baseline."""
    comparisons: tuple[Comparison, ...]
    rules: tuple[RuleResult, ...] = ()
    """What all other rules found; none in reports of 0.2 and before."""
    slices: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    """Of `bundle`, `live` and each baseline: accuracy by kinds of targets; none in reports of before 0.2."""
    concentration: dict[str, dict[str, float]] = {}
    """Of the same: how concentrated what they show is, and how popular; none in reports of before 0.2."""

    @property
    def passed(self) -> bool:
        """Whether the bundle is below none of the references and keeps all other rules."""
        return all(of.passed for of in self.comparisons) and all(rule.passed for rule in self.rules)

    @classmethod
    def read(cls, bundles: Path, digest: str) -> Self | None:
        """Read the report of a bundle, None if there is none. Raises BundleError if it is damaged."""
        file = report_file(bundles, digest)
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BundleError(f"{file.name}: {message_of(error.errors()[0])}") from error


def report_file(bundles: Path, digest: str) -> Path:
    """Return the path of a bundle's report."""
    return bundles / f"{digest}.gate.json"


def gate_fault(bundles: Path, digest: str, *, live: str | None = None) -> str | None:
    """Return why a staged bundle may not go live, None if it may: it passed the gate beside the bundle live now.

    `live` is the digest of that, None for the one that `current` links to. Raises BundleError if its report is damaged.
    """
    report = GateReport.read(bundles, digest)
    if report is None:
        return "it has not been through the gate"
    if report.live != (live or current_digest(bundles)):
        return "another bundle is live than it was compared with"
    failed = [
        f"{comparison.metric} is {-comparison.difference:.4f} below {comparison.reference}"
        for comparison in report.comparisons
        if not comparison.passed
    ]
    return ", ".join((*failed, *(str(rule) for rule in report.rules if not rule.passed))) or None
