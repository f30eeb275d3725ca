"""OutageLog: count lost records, and log when a destination of records fails and recovers."""

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
    """Counts the lost records of one kind; logs the start and the end of an outage, not each loss."""

    def __init__(self, what: str) -> None:
        """Name the kind of records, for the log and the metrics."""
        self._what = what
        self.is_failing = False
        """Whether the last attempt to write failed."""

    @contextmanager
    def writing(self, records: int) -> Iterator[None]:
        """Write `records` records in this block. If their destination fails, count them as lost and continue.

        If it refused only some of them, which the block says by RecordsRefused, only these count as lost.
        """
        try:
            yield
        except (SessionStoreUnavailable, RecordsRefused, OSError) as error:
            self.count_lost(error.records if isinstance(error, RecordsRefused) else records)
            if not self.is_failing:
                telemetry.recording_failed(self._what, error.__cause__ or error)
            self.is_failing = True
        else:
            if self.is_failing:
                telemetry.recording_recovered(self._what)
            self.is_failing = False

    def count_lost(self, records: int) -> None:
        """Count records that were dropped."""
        if records:
            telemetry.records_lost(self._what, records)
