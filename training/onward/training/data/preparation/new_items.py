"""Keep the products of a catalog that have no event, or too few, for the bundles of a dataset."""

from pathlib import Path

import polars as pl

from onward.training.data.dataset import ITEMS_FILE, NEW_ITEMS_FILE


def write_new_items(dataset: Path, attributes: pl.DataFrame) -> None:
    """Write the rows of `attributes` whose item is not in the dataset's file of items."""
    items = pl.scan_parquet(dataset / ITEMS_FILE).select("item_id").collect()
    attributes.join(items, on="item_id", how="anti", maintain_order="left").write_parquet(dataset / NEW_ITEMS_FILE)
