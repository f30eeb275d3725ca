"""Console output of a preparation: its steps on stderr, its result on stdout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.table import Table

from onward.training.data.dataset import DatasetInfo
from onward.training.data.preparation.account import Loss
from onward.training.data.readers.row_problems import SHOWN_ROWS, RowProblem
from onward.training.data.readers.sources import IgnoredFile

SHOWN_FILES = 3
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
    """Print what was taken, where every row went, and the counts of each part: a table on a terminal, else lines."""
    for line in _taken(info):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if console.is_terminal:
        console.print(_table(info))
    else:
        for part, counts in info.parts.items():
            numbers = ", ".join(f"{getattr(counts, name)} {name}" for name in COUNTS)
            console.print(f"{part}: {numbers}", soft_wrap=True, highlight=False)
    for line in (*_funnel(info), *_remarks(info)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def described(info: DatasetInfo) -> Iterator[str]:
    """Yield what was taken, where every row went and what should be looked at, one line each."""
    yield from (*_taken(info), *_funnel(info), *_remarks(info))


def _table(info: DatasetInfo) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("part")
    for name in COUNTS:
        table.add_column(name, justify="right")
    for part, counts in info.parts.items():
        table.add_row(part, *(f"{getattr(counts, name):,}" for name in COUNTS))
    return table


def _taken(info: DatasetInfo) -> Iterator[str]:
    if info.account is not None:
        yield f"columns: {', '.join(map(str, info.account.columns))}"
        if info.account.times is not None:
            yield f"times: {info.account.times}"


def _funnel(info: DatasetInfo) -> Iterator[str]:
    account = info.account
    if account is None:
        return
    yield f"read: {account.rows:,} rows of {len(account.files):,} files"
    for reason, names in _by_reason(account.ignored).items():
        more = f" and {len(names) - SHOWN_FILES:,} more" if len(names) > SHOWN_FILES else ""
        yield f"ignored: {', '.join(names[:SHOWN_FILES])}{more} ({reason})"
    places = _places(info.problems)
    for loss in _merged(account.losses):
        whole = [f"{loss.sessions:,} sessions"] * bool(loss.sessions) + [f"{loss.items:,} items"] * bool(loss.items)
        counted = f"{loss.events:,} events" + (f" ({', '.join(whole)})" if whole else "")
        where = f": {places[loss.reason]}" if loss.reason in places else ""
        option = f"; see {loss.option}" if loss.option else ""
        yield f"dropped: {counted}, {loss.reason}{where}{option}"
    yield (
        f"kept: {account.kept:,} of {account.rows:,} events; "
        f"{account.sessions:,} sessions and {account.items:,} items before the drops of short sessions and rare items"
    )


def _remarks(info: DatasetInfo) -> Iterator[str]:
    yield f"catalog: {info.items:,} items; split: {info.options.split}; fingerprint {info.fingerprint[:12]}"
    events = set(info.account.files) if info.account is not None else set()
    for problem in info.problems:
        if problem.file not in events:
            yield f"problem: {problem}"
    if info.attributes_unused:
        yield (
            f"products without enough events: {info.attributes_unused:,}; `export` makes those recommendable that "
            "share attributes with others"
        )
    for remark in info.account.remarks if info.account is not None else ():
        yield f"note: {remark}"


def _by_reason(ignored: Sequence[IgnoredFile]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for file in ignored:
        names.setdefault(file.reason, []).append(file.name)
    return names


def _places(problems: Sequence[RowProblem]) -> dict[str, str]:
    """Return the first places of each kind of problem."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        shown = found.setdefault(problem.kind, [])
        shown += [f"{problem.file} row {row}" for row in problem.first_rows[: SHOWN_ROWS - len(shown)]]
    return {kind: ", ".join(places) for kind, places in found.items()}


def _merged(losses: Sequence[Loss]) -> list[Loss]:
    """Join the losses of several files for one reason."""
    merged: dict[str, Loss] = {}
    for loss in losses:
        before = merged.get(loss.reason)
        merged[loss.reason] = (
            loss
            if before is None
            else before.model_copy(
                update={
                    "events": before.events + loss.events,
                    "sessions": before.sessions + loss.sessions,
                    "items": before.items + loss.items,
                }
            )
        )
    return list(merged.values())
