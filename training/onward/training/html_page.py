"""Build pages for a person to look at: one HTML file without scripts, offline, with charts as SVG."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}
td,th{text-align:left;padding:.15em 1em .15em 0;vertical-align:top;font-weight:normal}th{color:#666}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.marked td{font-weight:bold}
svg{width:100%;height:auto}rect{fill:#3b6ea5}polyline{fill:none;stroke-width:2}text{font-size:11px;fill:#555}
li{margin:.2em 0}"""
COLOURS = ("#3b6ea5", "#c8553d", "#588b3a", "#8d5fa8", "#b8860b", "#2a9d8f", "#6c757d", "#d81b60")
WIDTH, HEIGHT, MARGIN = 640, 220, 40


def page(title: str, sections: Iterable[str]) -> str:
    """Return a page."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{''.join(sections)}</html>\n"
    )


def section(title: str, *contents: str) -> str:
    """Return a section with a heading."""
    return f"<h2>{escape(title)}</h2>{''.join(contents)}"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def bullet_list(lines: Iterable[str]) -> str:
    """Return a list of lines."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, marked: frozenset[int] = frozenset()
) -> str:
    """Return a table; the first `texts` columns are text, the others numbers. The rows `marked` stand out."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= texts else ''}>{escape(cell)}</{tag}>" for place, cell in enumerate(cells)
        )

    body = "".join(
        f"<tr{' class=marked' if number in marked else ''}>{line(row, 'td')}</tr>" for number, row in enumerate(rows)
    )
    return f"<table><tr>{line(header, 'th')}</tr>{body}</table>"


def line_chart(lines: Mapping[str, Sequence[float]], *, x: str, y: str) -> str:
    """Draw one line for each name, its values at x = 1, 2, ..., with a legend."""
    longest = max(map(len, lines.values()), default=0)
    values = [value for of_line in lines.values() for value in of_line]
    if not values:
        return ""
    low, high = min(values), max(values)
    across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def point(place: int, value: float) -> str:
        left = MARGIN + across * place / max(longest - 1, 1)
        return f"{left:.1f},{HEIGHT - MARGIN - up * (value - low) / ((high - low) or 1):.1f}"

    shapes, legend = [], []
    for number, (name, of_line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [point(place, value) for place, value in enumerate(of_line)]
        shapes.append(
            f'<polyline stroke="{colour}" points="{" ".join(points)}"><title>{escape(name)}</title></polyline>'
        )
        shapes += [
            f'<circle r="2.5" fill="{colour}" cx="{at.split(",")[0]}" cy="{at.split(",")[1]}"><title>'
            f"{escape(name)}: {value:.4f}</title></circle>"
            for at, value in zip(points, of_line, strict=True)
        ]
        legend.append(f'<span style="color:{colour}">&#9632;</span> {escape(name)} &nbsp; ')
    labels = (
        f'<text x="0" y="{MARGIN + 4}">{high:.3f}</text><text x="0" y="{HEIGHT - MARGIN + 4}">{low:.3f}</text>'
        f'<text x="0" y="14">{escape(y)}</text><text x="{MARGIN}" y="{HEIGHT - 8}">{escape(x)} 1</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 8}">{longest}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{labels}{"".join(shapes)}</svg><p>{"".join(legend)}</p>'
