"""Synthetic data: a shop with items and four weeks of visitors' events. Vectorised; equal seeds give equal data.

The patterns to learn:

- An item has a **category**, a **theme** in it (a material and a noun: "ceramic mug") and a **colour**. The items of
  one theme and colour are a *shelf* of a handful.
- **Popularity** follows a power law and drifts: a quarter of the items is launched within the four weeks, and every
  item fades with its age.
- A **session** starts at an item that is popular that day, half the time in the visitor's favourite category. Its
  length follows a power law.
- **Habit** (3 of 5 steps): from an item to the theme that follows its own, in the colour of the item BEFORE the last:
  visitors alternate between two colours. Half of these steps go to the last item's *partner* on that shelf, always the
  same item, the others to any item of the shelf by popularity. So item-to-item counts beat popularity by far, and an
  encoder that reads the whole session beats them, because it knows the colour.
- Other steps go back to an item of the session (1 of 10), to a popular item of the category (1 of 4), or to a
  popular one of any category (the rest).
- 1.5 % of the items are not available.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.training.data.staging import new_folder

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

START_MS = 1_740_960_000_000
"""2025-03-03, a Monday."""
DAYS = 28
DAY_MS = 86_400_000
LENGTHS = np.arange(1, 61)
ITEMS_PER_SHELF = 6
HABIT, BACK, IN_CATEGORY = 0.6, 0.1, 0.25
PARTNER_SHARE = 0.5
UNAVAILABLE = 0.015
CART, PURCHASE = 0.06, 0.02

COLOURS = ("Blue", "Red", "Green", "White", "Black", "Yellow", "Grey", "Orange")
MATERIALS = ("ceramic", "wooden", "steel", "glass", "woven", "leather", "bamboo", "linen", "copper", "felt")
CATEGORIES = {
    "Kitchen": ("mug", "bowl", "teapot", "tray", "jar", "carafe"),
    "Garden": ("planter", "lantern", "bench", "bucket", "trellis", "birdhouse"),
    "Office": ("desk", "organiser", "lamp", "notebook", "clock", "shelf"),
    "Bedroom": ("blanket", "nightstand", "pillow", "mirror", "wardrobe", "rug"),
    "Bathroom": ("basket", "dispenser", "stool", "towel", "mat", "tumbler"),
    "Travel": ("suitcase", "backpack", "wallet", "flask", "pouch", "hammock"),
    "Sport": ("racket", "bottle", "bag", "club", "paddle", "board"),
    "Toys": ("train", "puzzle", "drum", "castle", "robot", "kite"),
    "Music": ("flute", "stand", "bell", "chime", "rattle", "case"),
    "Pets": ("collar", "bed", "feeder", "perch", "crate", "tunnel"),
    "Dining": ("plate", "goblet", "platter", "candlestick", "coaster", "ladle"),
    "Living": ("armchair", "vase", "frame", "cushion", "table", "screen"),
}


@dataclass(frozen=True)
class Shop:
    """Events (session_id, user_id, item_id, timestamp in ms, type), sorted by time, and items with attributes."""

    events: pl.DataFrame
    items: pl.DataFrame

    def write(self, out: Path, *, force: bool = False) -> None:
        """Write events.parquet and items.parquet to the folder `out`, atomically.

        Raises InputError if `out` exists and is not to be replaced.
        """
        with new_folder(out, force=force, marker="events.parquet") as folder:
            self.events.write_parquet(folder / "events.parquet")
            self.items.write_parquet(folder / "items.parquet")


@dataclass(frozen=True)
class _Catalog:
    """Items numbered shelf by shelf, so that each shelf and each category is a range of numbers.

    Dimension key: N items, S shelves, C categories, T themes of a category, K colours.
    """

    shelf_N: Integers
    starts_S: Integers
    """First item of each shelf, then the number of items; a shelf is (category * T + theme) * K + colour."""
    cumulative_DN: Floats
    """Prefix sums of the popularity by day and item, so that one search draws an item by day and range."""
    categories: int
    themes: int
    colours: int

    @property
    def items(self) -> int:
        return len(self.shelf_N)

    def colour(self, items: Integers) -> Integers:
        return self.shelf_N[items] % self.colours

    def category(self, items: Integers) -> Integers:
        return self.shelf_N[items] // (self.colours * self.themes)

    def next_shelf(self, last: Integers, colour: Integers) -> Integers:
        """Return the shelf of the theme that follows the last item's theme, in `colour`."""
        theme = (self.shelf_N[last] // self.colours) % self.themes
        return (self.category(last) * self.themes + (theme + 1) % self.themes) * self.colours + colour

    def partner(self, last: Integers, shelf: Integers) -> Integers:
        """Return the one item of a shelf that is the last item's partner there."""
        start, end = self.starts_S[shelf], self.starts_S[shelf + 1]
        return start + (last - self.starts_S[self.shelf_N[last]]) % (end - start)

    def popular(self, day: Integers, first: Integers, end: Integers, uniform: Floats) -> Integers:
        """Draw items of the ranges first <= item < end by their popularity on a day."""
        base = day * self.items
        low, high = self.cumulative_DN[base + first], self.cumulative_DN[base + end]
        drawn = np.searchsorted(self.cumulative_DN, low + uniform * (high - low), side="right") - 1
        items: Integers = np.clip(drawn - base, first, end - 1)
        return items

    def popular_of_shelf(self, day: Integers, shelf: Integers, uniform: Floats) -> Integers:
        return self.popular(day, self.starts_S[shelf], self.starts_S[shelf + 1], uniform)

    def popular_of_category(self, day: Integers, category: Integers, uniform: Floats) -> Integers:
        shelves = self.themes * self.colours
        return self.popular(day, self.starts_S[category * shelves], self.starts_S[(category + 1) * shelves], uniform)


def generate(events: int, seed: int) -> Shop:
    """Generate a shop with exactly `events` events; the catalog grows more slowly than the events."""
    random = np.random.default_rng(seed)
    catalog = _catalog(random, items=round(2 * events**0.62))
    lengths = _lengths(random, events)
    starts_ms = _session_starts(random, len(lengths))
    users = random.integers(0, max(1, len(lengths) // 3), len(lengths))
    items, offsets = _walks(random, catalog, lengths, (starts_ms - START_MS) // DAY_MS, users)
    return Shop(_events(random, items, lengths, offsets, starts_ms, users), _items(random, catalog))


def _catalog(random: np.random.Generator, items: int) -> _Catalog:
    categories = int(np.clip(items // 60, 3, len(CATEGORIES)))
    colours = int(np.clip(items // 100, 2, len(COLOURS)))
    max_themes = len(MATERIALS) * len(next(iter(CATEGORIES.values())))
    themes = int(np.clip(items // (categories * colours * ITEMS_PER_SHELF), 2, max_themes))
    shelves = categories * themes * colours
    shelf_N = np.sort(np.arange(items) % shelves)
    starts_S = np.searchsorted(shelf_N, np.arange(shelves + 1))
    return _Catalog(shelf_N, starts_S, _cumulative(_popularity(random, items)), categories, themes, colours)


def _popularity(random: np.random.Generator, items: int) -> Floats:
    """Return the popularity weight of each item on each day, (DAYS, items); nearly 0 before its launch."""
    weight_N = (4.0 + random.permutation(items)) ** -0.9
    launch_N = random.uniform(-3 * DAYS, DAYS, items)
    fading_N = random.uniform(5, 60, items)
    age_DN = np.arange(DAYS)[:, None] + 1 - launch_N
    freshness_DN = 0.2 + np.exp(-np.maximum(age_DN, 0) / fading_N)
    return np.where(age_DN > 0, weight_N * freshness_DN, weight_N * 1e-4)


def _cumulative(weight_DN: Floats) -> Floats:
    return np.concatenate([np.zeros(1), np.cumsum(weight_DN)])


def _lengths(random: np.random.Generator, events: int) -> Integers:
    """Draw session lengths that add up to exactly `events`."""
    share = (LENGTHS + 3.0) ** -2.6
    drawn = random.choice(LENGTHS, size=events, p=share / share.sum())
    sessions = int(np.searchsorted(np.cumsum(drawn), events)) + 1
    lengths = drawn[:sessions]
    lengths[-1] -= lengths.sum() - events
    return lengths


def _session_starts(random: np.random.Generator, sessions: int) -> Integers:
    """Draw sorted start times in epoch milliseconds, more of them in the evening and at the weekend."""
    weekday_load = np.array([1.0, 0.95, 0.95, 1.0, 1.1, 1.35, 1.3])
    day = random.choice(DAYS, size=sessions, p=np.tile(weekday_load, DAYS // 7) / (weekday_load.sum() * DAYS / 7))
    hour = np.clip(random.normal(15.5, 4.5, sessions), 0, 21)
    return np.sort(START_MS + day * DAY_MS + (hour * 3_600_000).astype(np.int64))


def _walks(
    random: np.random.Generator, catalog: _Catalog, lengths: Integers, day: Integers, users: Integers
) -> tuple[Integers, Integers]:
    """Draw the items of all sessions, as one flat array, and return it with the offset of each session."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    items = np.zeros(offsets[-1], np.int64)
    home = random.integers(0, catalog.categories, int(users.max()) + 1)[users]
    items[offsets[:-1]] = _first(random, catalog, day, home)
    for position in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > position)
        place = offsets[longer] + position
        items[place] = _next(random, catalog, items, place, position, day[longer])
    return items, offsets


def _first(random: np.random.Generator, catalog: _Catalog, day: Integers, home: Integers) -> Integers:
    anywhere = _anywhere(random, catalog, day)
    at_home = catalog.popular_of_category(day, home, random.random(len(day)))
    return np.where(random.random(len(day)) < 0.5, at_home, anywhere)


def _next(
    random: np.random.Generator, catalog: _Catalog, items: Integers, place: Integers, position: int, day: Integers
) -> Integers:
    """Draw the items at the indices `place`, all at the same position of their sessions."""
    last, uniform = items[place - 1], random.random(len(place))
    before_last = items[place - 2] if position > 1 else random.integers(0, catalog.items, len(place))
    shelf = catalog.next_shelf(last, catalog.colour(before_last))
    partner, popular = catalog.partner(last, shelf), catalog.popular_of_shelf(day, shelf, uniform)
    habit = np.where(random.random(len(place)) < PARTNER_SHARE, partner, popular)
    back = items[place - position + random.integers(0, position, len(place))]
    in_category = catalog.popular_of_category(day, catalog.category(last), uniform)
    choice = random.random(len(place))
    return np.select(
        [choice < HABIT, choice < HABIT + BACK, choice < HABIT + BACK + IN_CATEGORY],
        [habit, back, in_category],
        _anywhere(random, catalog, day),
    )


def _anywhere(random: np.random.Generator, catalog: _Catalog, day: Integers) -> Integers:
    first = np.zeros(len(day), np.int64)
    return catalog.popular(day, first, first + catalog.items, random.random(len(day)))


def _events(
    random: np.random.Generator,
    items: Integers,
    lengths: Integers,
    offsets: Integers,
    starts_ms: Integers,
    users: Integers,
) -> pl.DataFrame:
    session = np.repeat(np.arange(len(lengths)), lengths)
    pause_ms = np.clip(random.lognormal(np.log(40_000), 1.0, len(items)), 1_000, 1_200_000).astype(np.int64)
    cumulative_ms = np.cumsum(pause_ms)
    elapsed_ms = cumulative_ms - np.repeat(cumulative_ms[offsets[:-1]], lengths)
    chance = random.random(len(items))
    table = pl.DataFrame(
        {
            "session": session,
            "user": users[session],
            "item": items,
            "timestamp": starts_ms[session] + elapsed_ms,
            "type": pl.Series(np.select([chance < PURCHASE, chance < PURCHASE + CART], [2, 1], 0)),
        }
    )
    return table.sort("timestamp", maintain_order=True).select(
        pl.format("session-{}", "session").alias("session_id"),
        pl.format("user-{}", "user").alias("user_id"),
        _item_id("item"),
        "timestamp",
        pl.col("type").replace_strict({0: "view", 1: "cart", 2: "purchase"}, return_dtype=pl.String),
    )


def _item_id(column: str) -> pl.Expr:
    return pl.format("item-{}", column).alias("item_id")


def _items(random: np.random.Generator, catalog: _Catalog) -> pl.DataFrame:
    number = np.arange(catalog.items)
    category = catalog.category(number)
    theme = (catalog.shelf_N // catalog.colours) % catalog.themes
    names = list(CATEGORIES)
    nouns = np.array([CATEGORIES[name] for name in names])
    material, noun = theme // nouns.shape[1] + 3 * category, theme % nouns.shape[1]
    price = np.exp(random.normal(3 + 0.08 * category, 0.6))
    return pl.DataFrame(
        {
            "item": number,
            "colour": np.array(COLOURS)[catalog.colour(number)],
            "material": np.array(MATERIALS)[material % len(MATERIALS)],
            "noun": nouns[category, noun],
            "category": np.array(names)[category],
            "price": np.round(price, 2),
            "available": random.random(catalog.items) >= UNAVAILABLE,
        }
    ).select(
        _item_id("item"),
        pl.format("{} {} {} {}", "colour", "material", "noun", pl.col("item") + 1).alias("title"),
        "category",
        "price",
        "available",
    )
