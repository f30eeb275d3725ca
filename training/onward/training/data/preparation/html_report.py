"""A page about a dataset for a person to look at: one HTML file without scripts, with charts as SVG."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from onward.training.data.dataset import ITEMS_FILE, Dataset, PartName
from onward.training.data.preparation.prepare_report import described
from onward.training.data.readers.events import DAY_MS
from onward.training.errors import InputError
from onward.training.html_page import Bar, bar_chart, bullet_list, page, section, table

SAMPLE_SESSIONS, SAMPLE_EVENTS = 10, 12
LONGEST = 20
"""Sessions of this length and longer ones share a bar."""
POPULARITY_BARS = 20
TITLES = ("title", "name", "item_name", "product_title")


def write_report(dataset: Dataset, path: Path) -> None:
    """Write the page. Raises InputError if the file cannot be written."""
    try:
        path.write_text(page(f"Dataset {dataset.folder}", _sections(dataset)), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _sections(dataset: Dataset) -> Iterator[str]:
    events = events_of(dataset)
    yield section("Where every row went", bullet_list(described(dataset.info)))
    yield section("Parts", _parts(dataset))
    yield section("Sessions by their number of events", bar_chart(session_lengths(events), " sessions"))
    if days := events_by_day(events):
        yield section("Events by day", bar_chart(days, " events"))
    title = "Popularity: share of the events on each twentieth of the items, the most popular first"
    yield section(title, bar_chart(popularity(events), "% of the events"))
    yield section("In figures", table((), _figures(events)))
    yield section("Ten sessions", _samples(dataset, events))


def session_lengths(events: pl.DataFrame) -> list[Bar]:
    """Return the number of sessions of each length."""
    lengths = events.group_by("part", "session_id").len()["len"].clip(upper_bound=LONGEST)
    counted = dict(lengths.value_counts().rows())
    labels = {length: f"{length}+" if length == LONGEST else str(length) for length in range(1, LONGEST + 1)}
    return [Bar(label, counted.get(length, 0)) for length, label in labels.items()]


def events_by_day(events: pl.DataFrame) -> list[Bar]:
    """Return the number of events of each day; nothing if the log has no times."""
    days = (
        events.drop_nulls("timestamp_ms").group_by(pl.col("timestamp_ms") // DAY_MS).agg(pl.len()).sort("timestamp_ms")
    )
    return [Bar(_day(day), count) for day, count in days.rows()]


def events_of(dataset: Dataset) -> pl.DataFrame:
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
    return table(("", "events", "sessions", "items", "examples"), rows)


def popularity(events: pl.DataFrame) -> list[Bar]:
    """Return the share of the events, in percent, on each twentieth of the items, the most popular first."""
    counts = events.group_by("item_id").len()["len"].sort(descending=True)
    total, items = len(events), len(counts)
    ends = [items * bar // POPULARITY_BARS for bar in range(POPULARITY_BARS + 1)]
    return [
        Bar(f"{100 * (bar + 1) // POPULARITY_BARS}%", 100 * float(counts[ends[bar] : ends[bar + 1]].sum()) / total)
        for bar in range(POPULARITY_BARS)
    ]


class Repeats(NamedTuple):
    """Shares of events on items that came before in their sessions."""

    repeated: float
    same_as_before: float


class Drift(NamedTuple):
    """How the test part differs from training."""

    unknown: float
    """Share of the test events of items that training never saw."""
    distance: float
    """Total variation distance of the popularities."""


def repeats(events: pl.DataFrame) -> Repeats:
    """Return how often events repeat items."""
    by_session = events.sort("part", "session_id", "position")
    shares = by_session.select(
        repeated=pl.struct("part", "session_id", "item_id").is_first_distinct().not_().mean(),
        twice=((pl.col("item_id") == pl.col("item_id").shift()) & (pl.col("position") > 0)).mean(),
    ).row(0)
    return Repeats(*shares)


def drift(events: pl.DataFrame) -> Drift | None:
    """Compare the test part with training; None if one of the two is missing."""
    if not {"train", "test"} <= {*events["part"]}:
        return None
    train, test = (events.filter(pl.col("part") == part) for part in ("train", "test"))
    shares = [part.group_by("item_id").agg(pl.len() / len(part)) for part in (train, test)]
    both = shares[0].join(shares[1], on="item_id", how="full", coalesce=True).fill_null(0)
    distance = (both["len"] - both["len_right"]).abs().sum() / 2
    return Drift(int((test["row"] == 0).sum()) / len(test), float(distance))


def _figures(events: pl.DataFrame) -> Iterator[Sequence[str]]:
    again = repeats(events)
    yield "events on an item that the session has had already", f"{again.repeated:.1%}"
    yield "events on the same item as the one before", f"{again.same_as_before:.1%}"
    if (change := drift(events)) is not None:
        yield "test events of items that training never saw", f"{change.unknown:.1%}"
        label = "drift: difference of the popularities of test and training (0 none, 1 no item in common)"
        yield label, f"{change.distance:.2f}"


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
    return bullet_list(lines)


def _day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}"
