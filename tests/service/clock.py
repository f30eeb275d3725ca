"""A clock that tests set by hand."""

from datetime import UTC, datetime, timedelta

NOON_S = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


class Clock:
    """Starts at noon and moves only when a test moves it."""

    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s

    def advance(self, duration: timedelta) -> None:
        self.now_s += duration.total_seconds()
