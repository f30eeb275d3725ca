"""Progress display on stderr: a bar on a terminal, a line per epoch elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import rich.progress
from rich.console import Console
from rich.text import Text


class _ExamplesPerSecond(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} examples/s")


class EpochProgress:
    """The progress bar of one epoch."""

    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, examples: int, loss: float) -> None:
        """Advance the bar by `examples`; `loss` is the epoch's mean so far."""
        self._bars.update(self._task, advance=examples, loss=f"{loss:.4f}")


class TrainingProgress:
    """Displays the progress of a training on stderr."""

    def __init__(self, model: str, *, reports_epochs: bool = True, is_silent: bool = False) -> None:
        self._model, self._reports_epochs = model, reports_epochs
        self._console = Console(stderr=True, quiet=is_silent)
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("loss {task.fields[loss]}"),
            _ExamplesPerSecond(),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            disable=is_silent or not self._console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def epoch(self, fit: str, epoch: int, epochs: int, examples: int) -> Iterator[EpochProgress]:
        """Show the bar of one epoch."""
        task = self._bars.add_task(f"{self._model} {fit} {epoch}/{epochs}", total=examples, loss="-")
        try:
            yield EpochProgress(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def say(self, text: str) -> None:
        """Print a line of text."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def report(self, line: dict[str, Any]) -> None:
        """Print the metrics of an epoch, `line` of metrics.jsonl, unless epochs are not reported."""
        if not self._reports_epochs:
            return
        validation = "".join(f"  {name} {value:.4f}" for name, value in line.get("validation", {}).items())
        steps = f"loss {line['loss']:.4f}  {line['examples_per_s']:,.0f} examples/s  {line['seconds']:.0f} s"
        self._console.print(
            f"{line['fit']} epoch {line['epoch']}: {steps if line['examples_per_s'] else 'no steps'}{validation}",
            soft_wrap=True,
            highlight=False,
        )


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of `total` units of work; on a terminal a bar shows their count."""
    console = Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bars:
        task = bars.add_task(what, total=total)
        yield lambda: bars.advance(task)
