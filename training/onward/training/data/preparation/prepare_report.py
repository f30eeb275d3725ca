"""Console output of a preparation: its steps on stderr, its result on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.table import Table

from onward.training.data.dataset import DatasetInfo

COUNTS = ("events", "sessions", "items", "examples")


@contextmanager
def announced_steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that announces a step: a spinner on a terminal, one line per step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(f"{step} ...", highlight=False)
        return
    with console.status("") as status:
        yield lambda step: status.update(f"{step} ...")


def print_report(info: DatasetInfo, console: Console) -> None:
    """Print the counts of each part, and what was dropped and why: a table on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        console.print(_table(info))
    else:
        for part, counts in info.parts.items():
            numbers = ", ".join(f"{getattr(counts, name)} {name}" for name in COUNTS)
            console.print(f"{part}: {numbers}", soft_wrap=True, highlight=False)
    for line in _remarks(info):
        console.print(line, soft_wrap=True, highlight=False)


def _table(info: DatasetInfo) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("part")
    for name in COUNTS:
        table.add_column(name, justify="right")
    for part, counts in info.parts.items():
        table.add_row(part, *(f"{getattr(counts, name):,}" for name in COUNTS))
    return table


def _remarks(info: DatasetInfo) -> Iterator[str]:
    yield f"catalog: {info.items:,} items; split: {info.options.split}; fingerprint {info.fingerprint[:12]}"
    for reason, count in info.dropped.items():
        yield f"dropped: {count:,} events, {reason}"
    for problem in info.problems:
        yield f"problem: {problem}"
    if info.attributes_unused:
        yield f"items without any event: {info.attributes_unused:,}, left out of the catalog"
