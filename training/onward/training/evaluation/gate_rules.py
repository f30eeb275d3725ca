"""The rules of the gate: `gate.toml` beside this module, changed by a `gate.toml` in the folder of bundles."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from onward.bundle import Bundle, RuleResult
from onward.bundle.release_record import ReleaseRecord
from onward.bundle.validation import message_of
from onward.training.baselines import BASELINES
from onward.training.errors import InputError
from onward.training.evaluation.evaluation import Rankings

RULES = "gate.toml"
SHIPPED = tomllib.loads(Path(__file__).with_name(RULES).read_text(encoding="utf-8"))
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]


class _Rules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AccuracyRules(_Rules):
    """What recall and MRR are compared with, and how."""

    margin: Share
    newest_sessions: Annotated[int, Field(ge=1)]
    fewest_sessions: Annotated[int, Field(ge=1)]
    floor: tuple[str, ...]

    @field_validator("floor")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in BASELINES]:
            raise ValueError(f"{unknown[0]} is no baseline; there are {', '.join(BASELINES)}")
        return names


class CatalogRules(_Rules):
    """Bounds beside the live bundle."""

    coverage: Share
    without_vector: Share
    items: tuple[Ratio, Ratio]
    size: tuple[Ratio, Ratio]


class IndexRules(_Rules):
    """Bounds of the index."""

    recall: Share


class GateRules(_Rules):
    """All rules."""

    accuracy: AccuracyRules
    catalog: CatalogRules
    index: IndexRules

    @classmethod
    def of(cls, bundles: Path) -> Self:
        """Return the rules of a folder of bundles. Raises InputError if its file is not valid."""
        file = bundles / RULES
        if not file.exists():
            return cls.model_validate(SHIPPED)
        try:
            own = tomllib.loads(file.read_text(encoding="utf-8"))
            return cls.model_validate({**SHIPPED, **{name: _merged(SHIPPED.get(name), own[name]) for name in own}})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{file}: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InputError(f"{file}: {'.'.join(map(str, first['loc']))}: {message_of(first)}") from error

    def applied(
        self,
        bundle: Bundle,
        record: ReleaseRecord | None,
        shown: Rankings,
        live: Bundle | None,
        live_shown: Rankings | None,
    ) -> tuple[RuleResult, ...]:
        """Return what each rule but those of accuracy finds; without a live bundle those that need none.

        Args:
            bundle: was loaded with its probes checked.
            record: of the bundle.
            shown: its answers.
            live: the live bundle.
            live_shown: its answers to the same sessions.
        """
        unfinished = record is not None and record.unfinished
        alone = (
            RuleResult(name="probes that agree", figure=len(bundle.manifest.probes), passed=True),
            RuleResult(name="finished training", figure=int(not unfinished), low=1, passed=not unfinished),
            _within("recall@20 of the index", bundle.manifest.index.recall_at_20, low=self.index.recall),
        )
        if live is None or live_shown is None:
            return alone
        rules, live_coverage, live_without = self.catalog, _coverage(live, live_shown), _without_vector(live)
        items, size = live.manifest.items, _size(live)
        return (
            *alone,
            _within("catalog coverage", _coverage(bundle, shown), live_coverage, low=rules.coverage * live_coverage),
            _within(
                "share of items without a vector",
                _without_vector(bundle),
                live_without,
                high=live_without + rules.without_vector,
            ),
            _within("items", bundle.manifest.items, items, low=rules.items[0] * items, high=rules.items[1] * items),
            _within("bytes", _size(bundle), size, low=rules.size[0] * size, high=rules.size[1] * size),
            RuleResult(name="overlap of answers with the live bundle", figure=_overlap(shown, live_shown), passed=True),
        )


def _merged(shipped: Any, own: Any) -> Any:
    return {**shipped, **own} if isinstance(shipped, dict) and isinstance(own, dict) else own


def _within(
    name: str, figure: float, live: float | None = None, *, low: float | None = None, high: float | None = None
) -> RuleResult:
    passed = (low is None or figure >= low) and (high is None or figure <= high)
    return RuleResult(name=name, figure=figure, live=live, low=low, high=high, passed=passed)


def _coverage(bundle: Bundle, shown: Rankings) -> float:
    """Return the share of the bundle's items that are in any of the answers."""
    return len({item for ranked in shown.lists for item in ranked}) / bundle.manifest.items


def _without_vector(bundle: Bundle) -> float:
    return 1 - int(np.count_nonzero(bundle.vectors_N1D[1:].any(axis=1))) / bundle.manifest.items


def _size(bundle: Bundle) -> int:
    return sum(entry.size for entry in bundle.manifest.files.values())


def _overlap(shown: Rankings, live_shown: Rankings) -> float:
    """Return the mean share of an answer's items that the live bundle's answer has too."""
    shares = [
        len(set(items) & set(others)) / max(len(items), 1)
        for items, others in zip(shown.lists, live_shown.lists, strict=True)
    ]
    return sum(shares) / len(shares)
