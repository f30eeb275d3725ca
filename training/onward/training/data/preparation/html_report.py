"""A page about a dataset for a person to look at: one HTML file without scripts, with charts as SVG."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import polars as pl

from onward.training.data.dataset import ITEMS_FILE, Dataset, PartName
from onward.training.data.preparation.prepare_report import described
from onward.training.data.readers.events import DAY_MS
from onward.training.errors import InputError

WIDTH, HEIGHT, MARGIN = 640, 160, 18
SAMPLE_SESSIONS, SAMPLE_EVENTS = 10, 12
LONGEST = 20
"""Sessions of this length and longer ones share a bar."""
POPULARITY_BARS = 20
TITLES = ("title", "name", "item_name", "product_title")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:720px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}
td{text-align:left;padding:.2em 1.2em .2em 0;vertical-align:top;border-bottom:1px solid #eee}
td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
code{white-space:nowrap;font-size:.93em;background:#f3f3f3;padding:0 .2em}
svg{width:100%;height:auto}rect{fill:#3b6ea5}line{stroke:#999}text{font-size:11px;fill:#555}li{margin:.2em 0}"""
CHARACTER_WIDTH = 6.5
"""Width of a character of a label, in units of the charts."""
NUMBER = re.compile(r"[0-9.,]+%?")
CODE = re.compile(r"`([^`]+)`|(--[a-z][a-z-]*(?: [0-9]+)?)")
"""Commands and options within text."""


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: float


def write_report(dataset: Dataset, path: Path) -> None:
    """Write the page. Raises InputError if the file cannot be written."""
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(dataset.folder.name)}</title>"
        f"<style>{STYLE}</style><h1>Dataset {escape(str(dataset.folder))}</h1>{''.join(_sections(dataset))}</html>\n"
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _sections(dataset: Dataset) -> Iterator[str]:
    events = _events(dataset)
    yield _section("Where every row went", _list(described(dataset.info)))
    yield _section("Parts", _parts(dataset))
    lengths = events.group_by("part", "session_id").len()["len"].clip(upper_bound=LONGEST)
    counted = dict(lengths.value_counts().rows())
    labels = {length: f"{length}+" if length == LONGEST else str(length) for length in range(1, LONGEST + 1)}
    yield _section(
        "Sessions by their number of events",
        _chart([Bar(label, counted.get(length, 0)) for length, label in labels.items()], " sessions"),
    )
    days = (
        events.drop_nulls("timestamp_ms").group_by(pl.col("timestamp_ms") // DAY_MS).agg(pl.len()).sort("timestamp_ms")
    )
    if len(days):
        yield _section("Events by day", _chart([Bar(_day(day), count) for day, count in days.rows()], " events"))
    title = "Popularity: share of the events on each twentieth of the items, the most popular first"
    yield _section(title, _chart(_popularity(events), "% of the events"))
    yield _section("In figures", _table(_figures(events)))
    yield _section("Ten sessions", _samples(dataset, events))


def _events(dataset: Dataset) -> pl.DataFrame:
    """Return the events of all parts, each once: histories of one user are in several parts."""
    parts: list[PartName] = ["test"] if dataset.info.options.split == "leave-one-out" else list(dataset.info.parts)
    columns = ["session_id", "position", "item_id", "row", "timestamp_ms"]
    frames = [
        pl.read_parquet(dataset.folder / f"{part}.parquet", columns=columns).with_columns(part=pl.lit(part))
        for part in parts
    ]
    return pl.concat(frames)


def _parts(dataset: Dataset) -> str:
    rows = [
        (part, *(f"{count:,}" for count in (counts.events, counts.sessions, counts.items, counts.examples)))
        for part, counts in dataset.info.parts.items()
    ]
    return _table([("", "events", "sessions", "items", "examples"), *rows])


def _popularity(events: pl.DataFrame) -> list[Bar]:
    counts = events.group_by("item_id").len()["len"].sort(descending=True)
    total, items = len(events), len(counts)
    ends = [items * bar // POPULARITY_BARS for bar in range(POPULARITY_BARS + 1)]
    return [
        Bar(f"{100 * (bar + 1) // POPULARITY_BARS}%", 100 * float(counts[ends[bar] : ends[bar + 1]].sum()) / total)
        for bar in range(POPULARITY_BARS)
    ]


def _figures(events: pl.DataFrame) -> Iterator[Sequence[str]]:
    by_session = events.sort("part", "session_id", "position")
    again = by_session.select(
        repeated=pl.struct("part", "session_id", "item_id").is_first_distinct().not_().mean(),
        twice=((pl.col("item_id") == pl.col("item_id").shift()) & (pl.col("position") > 0)).mean(),
    ).row(0)
    yield "events on an item that the session has had already", f"{again[0]:.1%}"
    yield "events on the same item as the one before", f"{again[1]:.1%}"
    if not {"train", "test"} <= {*events["part"]}:
        return
    train, test = (events.filter(pl.col("part") == part) for part in ("train", "test"))
    yield "test events of items that training never saw", f"{(test['row'] == 0).sum() / len(test):.1%}"
    shares = [part.group_by("item_id").agg(pl.len() / len(part)) for part in (train, test)]
    both = shares[0].join(shares[1], on="item_id", how="full", coalesce=True).fill_null(0)
    distance = (both["len"] - both["len_right"]).abs().sum() / 2
    yield "drift: difference of the popularities of test and training (0 none, 1 no item in common)", f"{distance:.2f}"


def _samples(dataset: Dataset, events: pl.DataFrame) -> str:
    sessions = events.select("part", "session_id").unique(maintain_order=True)
    sessions = sessions.gather_every(max(1, len(sessions) // SAMPLE_SESSIONS)).head(SAMPLE_SESSIONS)
    chosen = events.join(sessions, on=["part", "session_id"], how="semi")
    items = pl.read_parquet(dataset.folder / ITEMS_FILE)
    title = next((name for name in TITLES if name in items.columns), None)
    titles = {} if title is None else dict(items.select("item_id", pl.col(title).cast(pl.String)).rows())
    lines = []
    for (part, session), group in chosen.group_by("part", "session_id", maintain_order=True):
        shown = [titles.get(item) or item for item in group.sort("position")["item_id"]]
        more = f" and {len(shown) - SAMPLE_EVENTS} more" if len(shown) > SAMPLE_EVENTS else ""
        lines.append(f"{part}, {session}: {' → '.join(shown[:SAMPLE_EVENTS])}{more}")
    return _list(lines)


def _chart(bars: Sequence[Bar], unit: str) -> str:
    """Draw bars; as many have labels as there is room for, and the highest its value."""
    highest = max(bar.value for bar in bars) or 1
    step = WIDTH / len(bars)
    longest = max(len(bar.label) for bar in bars) + 1
    every = math.ceil(longest * CHARACTER_WIDTH / step)
    shapes = []
    for place, bar in enumerate(bars):
        height = (HEIGHT - 2 * MARGIN) * bar.value / highest
        left, top = place * step, HEIGHT - MARGIN - height
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(step - 1, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{escape(bar.label)}: {_value(bar.value)}{unit}</title></rect>"
        )
        if place % every == 0 and left + len(bar.label) * CHARACTER_WIDTH <= WIDTH:
            shapes.append(f'<text x="{left:.1f}" y="{HEIGHT - 4}">{escape(bar.label)}</text>')
    shapes.append(f'<line x1="0" x2="{WIDTH}" y1="{HEIGHT - MARGIN}" y2="{HEIGHT - MARGIN}"/>')
    shapes.append(f'<text x="0" y="12">highest bar: {_value(highest)}{unit}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(shapes)}</svg>'


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_with_code(line)}</li>' for line in lines)}</ul>"


def _with_code(line: str) -> str:
    return CODE.sub(lambda found: f"<code>{found[1] or found[2]}</code>", escape(line, quote=False))


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ("".join(map(_cell, row)) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(text: str) -> str:
    is_number = NUMBER.fullmatch(text) is not None
    return f'<td class="n">{text}</td>' if is_number else f"<td>{escape(text)}</td>"


def _day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}"
