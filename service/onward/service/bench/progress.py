"""What a person sees while rates are tried: a line for each, and on a terminal what goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from onward.service.bench.outcome import Outcome

Tell = Callable[[Outcome, Sequence[str]], None]
"""Takes what became of a trial, and what it fails the objective by."""


class Progress:
    """Prints to stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show what goes on."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(what):
            yield

    @contextmanager
    def trial(self, rate: float, seconds: float) -> Iterator[Tell]:
        """Show the rate that is tried; gives what is to be told of it in the end."""

        def tell(outcome: Outcome, misses: Sequence[str]) -> None:
            limited = f" (limited: {outcome.limited_by})" if outcome.limited_by else ""
            verdict = "misses: " + ", ".join(misses) if misses else "meets"
            self._console.print(f"{rate:>8,.0f} requests/s  {latencies(outcome)}  {verdict}{limited}", markup=False)

        with self.doing(f"{rate:,.0f} requests/s for {seconds:g} s"):
            yield tell


def latencies(outcome: Outcome) -> str:
    """In one line."""
    of = {"p50": outcome.p50_ms, "p90": outcome.p90_ms, "p99": outcome.p99_ms, "p99.9": outcome.p999_ms}
    return "  ".join(f"{name} {'-' if ms is None else f'{ms:.1f}'} ms" for name, ms in of.items())
