"""A section of the page: what one benchmark measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Generic, TypeVar

from tests.benchmarks.report.record import Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Picture(Generic[R]):
    """What is drawn of a record into a PNG."""

    title: str
    draw: Callable[[R, Path], None]


@dataclass(frozen=True, slots=True)
class Section(Generic[R]):
    """How the records of one benchmark are told."""

    title: str
    introduction: str
    kind: type[R]
    usage: str
    """The command, where there is no record that says it more exactly."""
    label: Callable[[R], str]
    command: Callable[[R], str]
    tables: Callable[[R], str]
    picture: Picture[R] | None = None

    def text(self, records: Sequence[Record], folder: Path, page: Path) -> str:
        """Tell the records that are of this benchmark, and draw beside each what is drawn of it."""
        own = [record for record in records if isinstance(record, self.kind)]
        told = [part for record in own for part in self._told(record, folder, page)]
        return "\n\n".join([f"## {self.title}", self.introduction, *(told or ["Not measured.", _shell(self.usage)])])

    def _told(self, record: R, folder: Path, page: Path) -> list[str]:
        told = [f"### {self.label(record)}", _shell(self.command(record)), self.tables(record)]
        if self.picture is None:
            return told
        path = folder / f"{record.file}.png"
        self.picture.draw(record, path)
        return [*told, f"![{self.picture.title}]({Path(relpath(path, page.parent)).as_posix()})"]


def _shell(command: str) -> str:
    return f"```bash\n{command}\n```"
