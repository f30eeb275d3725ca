"""A clock for what grows older while a test runs."""

from datetime import UTC, datetime, timedelta

NOON_S = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


class Clock:
    """Stands still at noon until it is told."""

    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, time: timedelta) -> None:
        self.now_s += time.total_seconds()
