"""Pieces of Markdown."""

from collections.abc import Iterable, Mapping, Sequence

ABSENT = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what stands in a cell needs no escapes of its own."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figure(value: float | None, unit: str = "") -> str:
    """Three digits or more, as many as tell something."""
    if value is None:
        return ABSENT
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{places}f}{unit}"


def counted(errors: Mapping[str, int]) -> str:
    """Errors and how often each came."""
    return ", ".join(f"{count} × {reason}" for reason, count in sorted(errors.items())) or "none"


def anchor(title: str) -> str:
    """Where a heading is linked to."""
    return "#" + title.lower().replace(" ", "-")
