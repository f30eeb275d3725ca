from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from onward.training.data.synthetic import DAY_MS, DAYS, START_MS, Shop, generate
from tests.training.data.conftest import Outcome


@pytest.fixture(scope="module")
def shop() -> Shop:
    return generate(50_000, seed=3)


def recall_at_20(shop: Shop, *context: str) -> float:
    """Share of the last week's clicks among the 20 items that followed the same context most often before.

    Contexts: last, the item before a click; kind, what the last item is whatever its colour; colour, that of the
    item before the last one.
    """
    title = pl.col("title").str.split(" ")
    items = shop.items.select(
        "item_id", own_colour=title.list.get(0), own_kind=pl.col("category") + title.list.slice(1, 2).list.join(" ")
    )
    clicks = shop.events.join(items, on="item_id", maintain_order="left").select(
        "item_id",
        "timestamp",
        last=pl.col("item_id").shift(1).over("session_id"),
        kind=pl.col("own_kind").shift(1).over("session_id"),
        colour=pl.col("own_colour").shift(2).over("session_id"),
        everything=pl.lit(0),
    )
    clicks = clicks.drop_nulls()
    early = pl.col("timestamp") < START_MS + 21 * DAY_MS
    known, later = clicks.filter(early), clicks.filter(~early)
    counts = known.group_by([*context, "item_id"]).len().sort("len", "item_id", descending=True)
    top = counts.group_by(context, maintain_order=True).head(20)
    return len(later.join(top, on=[*context, "item_id"], how="semi")) / len(later)


def test_equal_seeds_give_equal_shops_and_different_seeds_different_ones() -> None:
    first, same, other = (generate(2_000, seed) for seed in (1, 1, 2))
    assert first.events.equals(same.events)
    assert first.items.equals(same.items)
    assert not first.events.equals(other.events)


def test_item_to_item_beats_popularity_and_the_item_before_the_last_adds_information(shop: Shop) -> None:
    popularity = recall_at_20(shop, "everything")
    item_to_item = recall_at_20(shop, "last")
    whole_session = recall_at_20(shop, "kind", "colour")
    assert item_to_item > 2 * popularity
    assert whole_session > 1.3 * item_to_item


def test_popularity_and_session_length_have_long_tails(shop: Shop) -> None:
    clicks = np.sort(shop.events["item_id"].value_counts()["count"].to_numpy())[::-1]
    assert clicks[: len(clicks) // 10].sum() > 0.3 * clicks.sum()
    lengths = shop.events["session_id"].value_counts()["count"].to_numpy()
    assert np.median(lengths) <= 3
    assert (lengths.min(), lengths.max() > 40) == (1, True)


def test_sessions_mostly_stay_in_one_category_and_some_repeat_items(shop: Shop) -> None:
    clicks = shop.events.join(shop.items, on="item_id", maintain_order="left")
    same = clicks.select(pl.col("category") == pl.col("category").shift(1).over("session_id")).drop_nulls()
    assert 0.8 < same.to_numpy().mean() < 1
    repeated = 1 - len(clicks.unique(["session_id", "item_id"])) / len(clicks)
    assert 0.05 < repeated < 0.4


def test_popularity_drifts_over_four_weeks(shop: Shop) -> None:
    day = ((shop.events["timestamp"] - START_MS) // DAY_MS).alias("day")
    assert (day.min(), day.max()) == (0, DAYS - 1)
    by_week = (
        shop.events.group_by((day // 7).alias("week"), "item_id").len().pivot("week", index="item_id", values="len")
    )
    first, last = by_week["0"].fill_null(0).to_numpy(), by_week["3"].fill_null(0).to_numpy()
    assert np.sum((first == 0) & (last > 5)) > 10
    assert np.corrcoef(first, last)[0, 1] < 0.99


def test_titles_are_unique_and_a_few_items_are_not_available(shop: Shop) -> None:
    items = shop.items
    assert items["title"].is_unique().all()
    assert items["title"].str.contains(r"^[A-Z][a-z]+ [a-z]+ [a-z]+ \d+$").all()
    assert items["price"].to_numpy().min() > 0
    assert 0.005 < 1 - items["available"].to_numpy().mean() < 0.03


@pytest.mark.parametrize("events", [1_000, 1_001, 7_777])
def test_a_shop_has_exactly_the_requested_number_of_events(events: int) -> None:
    shop = generate(events, seed=0)
    assert len(shop.events) == events
    assert set(shop.events["item_id"]) <= set(shop.items["item_id"])
    assert set(shop.events["type"]) == {"view", "cart", "purchase"}
    assert shop.events["timestamp"].is_sorted()


def test_the_catalog_grows_more_slowly_than_the_events() -> None:
    small, large = len(generate(1_000, 0).items), len(generate(100_000, 0).items)
    assert small < large < 50 * small


def test_a_generated_shop_can_be_prepared(onward_training: Callable[..., Outcome], tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    assert onward_training("generate", "--out", shop, "--events", 2_000, "--seed", 1).code == 0
    prepared = onward_training(
        "prepare", shop / "events.parquet", "--items", shop / "items.parquet", "--out", tmp_path / "dataset"
    )
    assert prepared.code == 0
    assert "problem" not in prepared.out
    again = onward_training("generate", "--out", shop, "--events", 2_000)
    assert (again.code, again.err) == (2, f"error: {shop}: exists already; give --force to replace it\n")
