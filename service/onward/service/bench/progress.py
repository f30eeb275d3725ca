"""Progress on stderr: a line for each load step, and on a terminal the current activity."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from onward.service.bench.load_generator.load_result import LoadResult

ShowResult = Callable[[LoadResult, Sequence[str]], None]
"""Takes the result of a load step, and how it misses the objective."""


class Progress:
    """Prints progress to stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def activity(self, label: str) -> Iterator[None]:
        """Show an activity on a terminal while the context lasts."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(label):
            yield

    @contextmanager
    def step(self, rate: float, seconds: float) -> Iterator[ShowResult]:
        """Show a load step as the current activity; yields a function that prints its result."""

        def show_result(result: LoadResult, misses: Sequence[str]) -> None:
            limited = f" (limited: {result.limited_by})" if result.limited_by else ""
            verdict = "misses: " + ", ".join(misses) if misses else "meets"
            self._console.print(f"{rate:>8,.0f} requests/s  {latencies(result)}  {verdict}{limited}", markup=False)

        with self.activity(f"{rate:,.0f} requests/s for {seconds:g} s"):
            yield show_result


def latencies(result: LoadResult) -> str:
    """Format the latency percentiles in one line."""
    percentiles = {"p50": result.p50_ms, "p90": result.p90_ms, "p99": result.p99_ms, "p99.9": result.p999_ms}
    return "  ".join(f"{name} {'-' if ms is None else f'{ms:.1f}'} ms" for name, ms in percentiles.items())
