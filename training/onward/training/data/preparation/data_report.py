"""The figures of a dataset that travel with a bundle: those of the page of `prepare --report`, without sessions."""

from collections.abc import Iterable

from onward.bundle.data_report import Bar, DataReport, Part
from onward.training import html_page
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.html_report import (
    drift,
    events_by_day,
    events_of,
    popularity,
    repeats,
    session_lengths,
)
from onward.training.data.preparation.prepare_report import described


def data_report(dataset: Dataset) -> DataReport:
    """Return the figures of a dataset. Raises InputError if its files cannot be read."""
    events, info = events_of(dataset), dataset.info
    again, change = repeats(events), drift(events)
    return DataReport(
        prepared=info.created,
        fingerprint=info.fingerprint,
        rows=tuple(described(info)),
        parts={
            part: Part(events=of.events, sessions=of.sessions, items=of.items, examples=of.examples)
            for part, of in info.parts.items()
        },
        session_lengths=_bars(session_lengths(events)),
        events_by_day=_bars(events_by_day(events)),
        popularity=_bars(html_page.Bar(bar.label, bar.value / 100) for bar in popularity(events)),
        repeated=again.repeated or 0.0,
        same_as_before=again.same_as_before or 0.0,
        unknown_in_test=None if change is None else change.unknown,
        drift=None if change is None else change.distance,
    )


def _bars(bars: Iterable[html_page.Bar]) -> tuple[Bar, ...]:
    return tuple(Bar(label=bar.label, value=bar.value) for bar in bars)
