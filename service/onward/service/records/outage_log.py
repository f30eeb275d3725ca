"""What is told when a place for records fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable


class OutageLog:
    """Counts the records of one kind that are lost, and logs when an outage begins and ends, not each loss."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lasts = False

    @contextmanager
    def noted(self, records: int) -> Iterator[None]:
        """Write `records` in this block; where the place for them fails, they are lost and all else goes on."""
        try:
            yield
        except (SessionStoreUnavailable, OSError) as error:
            self.lost(records)
            if not self._lasts:
                telemetry.recording_failed(self._what, error.__cause__ or error)
            self._lasts = True
        else:
            if self._lasts:
                telemetry.recording_works_again(self._what)
            self._lasts = False

    def lost(self, records: int) -> None:
        """Count records that are dropped."""
        if records:
            telemetry.records_lost(self._what, records)
