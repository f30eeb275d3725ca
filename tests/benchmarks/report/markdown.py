"""Markdown building blocks."""

from collections.abc import Iterable, Mapping, Sequence

ABSENT = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are escaped here."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figure(value: float | None, unit: str = "") -> str:
    """Format a number with at least three significant digits."""
    if value is None:
        return ABSENT
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{places}f}{unit}"


def counted(errors: Mapping[str, int]) -> str:
    """List errors with their counts."""
    return ", ".join(f"{count} × {reason}" for reason, count in sorted(errors.items())) or "none"


def anchor(title: str) -> str:
    """Return the link to a heading of the same page."""
    return "#" + title.lower().replace(" ", "-")
