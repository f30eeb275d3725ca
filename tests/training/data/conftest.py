"""Fixtures that prepare small logs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from onward.training.__main__ import main
from onward.training.data.dataset import Dataset, PartName
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine

DAY_MS = 86_400_000
START_MS = 1_700_006_400_000
"""2023-11-15, midnight."""


def log(sessions: dict[str, str], *, minutes_apart: int = 60) -> pl.DataFrame:
    """{"s1": "a b"} as events: one session begins `minutes_apart` after the other, clicks are a minute apart."""
    rows = [
        (session, item, START_MS + 60_000 * (minutes_apart * number + place))
        for number, (session, items) in enumerate(sessions.items())
        for place, item in enumerate(items.split())
    ]
    return pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp"], orient="row")


def shown(dataset: Dataset, part: PartName) -> dict[str, str]:
    """A part's sessions in order, {"s1": "a *b *c"} with a star at each target."""
    sessions = dataset.sessions(part)
    words = ["*" * bool(target) + item for item, target in zip(sessions.item_ids, sessions.is_target, strict=True)]
    cuts = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return {
        session: " ".join(words[start:end]) for session, (start, end) in zip(sessions.session_ids, cuts, strict=True)
    }


class Prepare:
    """Writes frames as Parquet and prepares them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self,
        events: pl.DataFrame | Sequence[str],
        split: SplitKind = SplitKind.GIVEN,
        *,
        test: pl.DataFrame | Sequence[str] = (),
        items: str | None = None,
        **options: Any,
    ) -> Dataset:
        choices = {
            "min_support": 1,
            "min_length": split.min_length or 2,
            "validation": 0.0,
            "test_share": 0.1,
            **options,
        }
        prepare(
            [self.file(events, "events")] if isinstance(events, pl.DataFrame) else events,
            self._folder / "dataset",
            Preparation(split=split, **choices),
            PolarsEngine,
            test=[self.file(test, "test")] if isinstance(test, pl.DataFrame) else test,
            items=items,
            force=True,
        )
        return Dataset.open(self._folder / "dataset")

    def file(self, frame: pl.DataFrame, name: str) -> str:
        path = self._folder / f"{name}.parquet"
        frame.write_parquet(path)
        return str(path)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    return Prepare(tmp_path)


@dataclass(frozen=True)
class Outcome:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def onward_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`onward-training` with arguments, in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["onward-training", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run
