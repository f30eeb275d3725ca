"""RateLimit: how many requests a caller may make in a period."""

import re
from typing import NamedTuple, Self

_PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_NOTATION = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(_PERIODS_S)})")


class RateLimit(NamedTuple):
    """A number of requests per period."""

    requests: int
    per: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `100/second`. Raises ValueError, which explains the notation."""
        match = _NOTATION.fullmatch(text)
        if match is None:
            raise ValueError(f"a limit is written as in 100/second, or per {', '.join([*_PERIODS_S][1:])}")
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.requests}/{self.per}"

    @property
    def period_s(self) -> float:
        """Length of the period in seconds."""
        return _PERIODS_S[self.per]
