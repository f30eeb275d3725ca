"""Build pages for a person to look at: one HTML file without scripts, offline, with charts as SVG."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}
td,th{text-align:left;padding:.2em 1.2em .2em 0;vertical-align:top;font-weight:normal;border-bottom:1px solid #eee}
th{color:#666}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.marked td{font-weight:bold}code{white-space:nowrap;font-size:.93em;background:#f3f3f3;padding:0 .2em}
svg{width:100%;height:auto}rect{fill:#3b6ea5}line{stroke:#999}polyline{fill:none;stroke-width:2}
text{font-size:11px;fill:#555}li{margin:.2em 0}"""
NUMBER, MARKED = ' class="n"', ' class="marked"'
COLOURS = ("#3b6ea5", "#c8553d", "#588b3a", "#8d5fa8", "#b8860b", "#2a9d8f", "#6c757d", "#d81b60")
WIDTH, HEIGHT, MARGIN = 640, 220, 40
BARS_HEIGHT, BARS_MARGIN = 160, 18
CHARACTER_WIDTH = 6.5
"""Width of a character of a label, in units of the charts."""
CODE = re.compile(r"`([^`]+)`|(--[a-z][a-z-]*(?: [0-9.]*[0-9])?)")
"""Commands and options within text."""


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: float


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
    return f"<ul>{''.join(f'<li>{_with_code(line)}</li>' for line in lines)}</ul>"


def _with_code(line: str) -> str:
    return CODE.sub(lambda found: f"<code>{found[1] or found[2]}</code>", escape(line, quote=False))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, marked: frozenset[int] = frozenset()
) -> str:
    """Return a table; the first `texts` columns are text, the others numbers. The rows `marked` stand out."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{NUMBER if place >= texts else ''}>{escape(cell)}</{tag}>" for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr{MARKED if number in marked else ''}>{line(row, 'td')}</tr>" for number, row in enumerate(rows))
    head = f"<tr>{line(header, 'th')}</tr>" if header else ""
    return f"<table>{head}{body}</table>"


def bar_chart(bars: Sequence[Bar], unit: str) -> str:
    """Draw bars with their `unit`; as many have labels as there is room for, and the highest its value."""
    highest = max(bar.value for bar in bars) or 1
    step = WIDTH / len(bars)
    longest = max(len(bar.label) for bar in bars) + 1
    every = math.ceil(longest * CHARACTER_WIDTH / step)
    shapes = []
    for place, bar in enumerate(bars):
        height = (BARS_HEIGHT - 2 * BARS_MARGIN) * bar.value / highest
        left, top = place * step, BARS_HEIGHT - BARS_MARGIN - height
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(step - 1, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{escape(bar.label)}: {_value(bar.value)}{unit}</title></rect>"
        )
        if place % every == 0 and left + len(bar.label) * CHARACTER_WIDTH <= WIDTH:
            shapes.append(f'<text x="{left:.1f}" y="{BARS_HEIGHT - 4}">{escape(bar.label)}</text>')
    shapes.append(f'<line x1="0" x2="{WIDTH}" y1="{BARS_HEIGHT - BARS_MARGIN}" y2="{BARS_HEIGHT - BARS_MARGIN}"/>')
    shapes.append(f'<text x="0" y="12">highest bar: {_value(highest)}{unit}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {BARS_HEIGHT}" role="img">{"".join(shapes)}</svg>'


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


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
