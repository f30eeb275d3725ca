"""The record of a fit in its folder, written after each step."""

import time
from collections.abc import Callable
from pathlib import Path

from onward.training.fitting.records import FitRecord


class Journal:
    """Keeps the record of a fit that goes on, and tells what happens."""

    def __init__(
        self,
        out: Path,
        record: FitRecord,
        on_step: Callable[[str], object],
        on_note: Callable[[str], object],
    ) -> None:
        self.out, self.record = out, record
        self.on_step, self.on_note = on_step, on_note
        self._saved = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds that the fit has taken, those of earlier calls included."""
        return self.record.spent_s + time.monotonic() - self._saved

    def save(self, **changes: object) -> None:
        """Write the record with these changes."""
        self.record = self.record.model_copy(update={**changes, "spent_s": self.spent_s})
        self._saved = time.monotonic()
        self.record.write(self.out)
