"""A section of the performance page: the records of one benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Generic, TypeVar

from tests.benchmarks.report.record import Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Plot(Generic[R]):
    """A plot of a record, written to a PNG."""

    title: str
    draw: Callable[[R, Path], None]


@dataclass(frozen=True, slots=True)
class Section(Generic[R]):
    """How the records of one benchmark are presented."""

    title: str
    introduction: str
    kind: type[R]
    usage: str
    """The command to show if there is no record."""
    label: Callable[[R], str]
    command: Callable[[R], str]
    tables: Callable[[R], str]
    plot: Plot[R] | None = None
    discussion: str = ""
    """Text after the tables, if there is a record."""

    def text(self, records: Sequence[Record], folder: Path, page: Path) -> str:
        """Return the Markdown of the records of this benchmark, and write their plots beside them."""
        own = [record for record in records if isinstance(record, self.kind)]
        blocks = [block for record in own for block in self._blocks(record, folder, page)]
        if not blocks:
            blocks = ["Not measured.", _shell(self.usage)]
        elif self.discussion:
            blocks.append(self.discussion)
        return "\n\n".join([f"## {self.title}", self.introduction, *blocks])

    def _blocks(self, record: R, folder: Path, page: Path) -> list[str]:
        blocks = [f"### {self.label(record)}", _shell(self.command(record)), self.tables(record)]
        if self.plot is None:
            return blocks
        path = folder / f"{record.file}.png"
        self.plot.draw(record, path)
        return [*blocks, f"![{self.plot.title}]({Path(relpath(path, page.parent)).as_posix()})"]


def _shell(command: str) -> str:
    return f"```bash\n{command}\n```"
