"""OutageLog: count lost records, and log when a destination of records fails and recovers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable


class RecordsRefused(Exception):
    """The destination refused some records, for the reason that is the cause; the others are written."""

    def __init__(self, records: int) -> None:
        super().__init__(f"{records} records were refused")
        self.records = records


class OutageLog:
    """Counts the lost records of one kind; logs the start of an outage, and its end with the number lost."""

    def __init__(self, what: str) -> None:
        """Name the kind of records, for the log and the metrics."""
        self._what = what
        self.is_failing = False
        """Whether the last attempt to write failed."""
        self._began_s = 0.0
        self._lost = 0

    @contextmanager
    def writing(self, records: int) -> Iterator[None]:
        """Write `records` records in this block. If their destination fails, count them as lost and continue.

        If it refused only some of them, which the block says by RecordsRefused, only these count as lost.
        """
        try:
            yield
        except (SessionStoreUnavailable, RecordsRefused, OSError) as error:
            if not self.is_failing:
                self._began_s, self._lost = time.monotonic(), 0
                telemetry.recording_failed(self._what, error.__cause__ or error)
            self.is_failing = True
            self.count_lost(error.records if isinstance(error, RecordsRefused) else records)
        else:
            if self.is_failing:
                telemetry.recording_recovered(self._what, self._lost, time.monotonic() - self._began_s)
            self.is_failing = False

    def count_lost(self, records: int) -> None:
        """Count records that were dropped."""
        if records:
            self._lost += records
            telemetry.records_lost(self._what, records)
