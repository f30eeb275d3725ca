"""Products of a catalog that training does not know: they get vectors as new items of the live catalog do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.bundle import Catalog
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.training.export.bundling import json_attributes, write_catalog


class CatalogItems(NamedTuple):
    """Items of a catalog and their vectors, by row.

    Dimension key: N items in rows 1..N, D embedding.
    """

    attributes: pl.DataFrame
    """item_id and a column for each attribute, in order of rows."""
    popularity_N1: NDArray[Any]
    vectors_N1D: NDArray[np.float32]

    @property
    def ids(self) -> list[str]:
        """The id of each item."""
        return self.attributes["item_id"].to_list()


def with_new_items(
    known: CatalogItems,
    new: pl.DataFrame,
    scratch: Path,
    *,
    trained_items: int,
    on_note: Callable[[str], object] = lambda note: None,
) -> CatalogItems:
    """Append the new items that get a vector from trained items that share attributes with them; report the others.

    Args:
        known: items that have vectors; the first ones are trained.
        new: item_id and attributes of the new items.
        scratch: an empty folder for files.
        trained_items: number of trained items.
        on_note: called with a line that says how many items got a vector from what, and how many not and why.
    """
    if new.is_empty():
        return known
    kinds = write_catalog(scratch, known.ids, known.popularity_N1, known.attributes)
    catalog = Catalog.load(scratch, len(known.ids), kinds)
    cold_start = ColdStart(catalog, known.vectors_N1D, trained_items=trained_items)
    evidence = list(json_attributes(new.drop("item_id", "available", strict=False)))
    cold = [cold_start.vector(ColdItem(attributes)) for attributes in evidence]
    vectors = [of_item.vector_D for of_item in cold if of_item is not None]
    on_note(_described(len(vectors), evidence, len(new)))
    if not vectors:
        return known
    added = new.filter(pl.Series([of_item is not None for of_item in cold]))
    return CatalogItems(
        pl.concat([known.attributes, added], how="diagonal_relaxed"),
        np.concatenate([known.popularity_N1, np.zeros(len(added), known.popularity_N1.dtype)]),
        np.vstack([known.vectors_N1D, *vectors]),
    )


def _described(with_vector: int, evidence: Sequence[dict[str, Any]], new: int) -> str:
    without_attributes = sum(not attributes for attributes in evidence)
    alone = new - with_vector - without_attributes
    left_out = [
        f"{count:,} left out, as {reason}"
        for count, reason in (
            (without_attributes, "they have no attributes"),
            (alone, "no trained item shares a text, list entry or boolean with them that is not common to most"),
        )
        if count
    ]
    got = f"{with_vector:,} products that training does not know got a vector from items that share their attributes"
    return "; ".join([got, *left_out])
