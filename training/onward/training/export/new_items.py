"""Products of a catalog that training does not know: they get vectors as new items of the live catalog do.

Means of vectors fit many sessions a little, and thousands of products that nobody has bought would crowd out the
others. So their vectors are shortened, all by one factor: until they take at most `MOST_PLACES` of the places of real
sessions.
Dimension key: N known items, M new ones, Q queries, K interests, D embedding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.bundle import Catalog, ContentTower
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.training.export.bundling import json_attributes, write_catalog

MOST_PLACES = 0.05
"""Largest share of the first `PLACES` places of real sessions that new items take together."""
PLACES = 20
MOST_QUERIES = 256
QUERIES_AT_ONCE = 16


class CatalogItems(NamedTuple):
    """Items of a catalog and their vectors, by row.

    Dimension key: N items in rows 1..N, D embedding.
    """

    attributes: pl.DataFrame
    """item_id and a column for each attribute, in order of rows."""
    popularity_N1: NDArray[Any]
    vectors_N1D: NDArray[np.float32]
    factor: float = 1.0
    """By what the vectors of the items that were added last were shortened."""

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
    queries_QKD: NDArray[np.float32],
    content: ContentTower | None = None,
    on_note: Callable[[str], object] = lambda note: None,
) -> CatalogItems:
    """Append the new items that get a vector from their attributes; report the others.

    Args:
        known: items that have vectors; the first ones are trained.
        new: item_id and attributes of the new items.
        scratch: an empty folder for files.
        trained_items: number of trained items.
        queries_QKD: interests of real sessions.
        content: the bundle's content tower; without it, vectors are means of trained items that share attributes.
        on_note: called with a line that says how many items got a vector from what, and how many not and why.
    """
    if new.is_empty():
        return known
    kinds = write_catalog(scratch, known.ids, known.popularity_N1, known.attributes)
    catalog = Catalog.load(scratch, len(known.ids), kinds)
    cold_start = ColdStart(catalog, known.vectors_N1D, trained_items=trained_items, content=content)
    evidence = list(json_attributes(new.drop("item_id", "available", strict=False)))
    cold = [cold_start.vector(ColdItem(attributes)) for attributes in evidence]
    vectors = [of_item.vector_D for of_item in cold if of_item is not None]
    by_content = sum(of_item is not None and of_item.source == "content" for of_item in cold)
    on_note(_described(len(vectors), evidence, len(new), by_content))
    if not vectors:
        return known
    new_vectors_MD = np.vstack(vectors)
    factor = fair_length(known.vectors_N1D, new_vectors_MD, queries_QKD)
    if factor < 1:
        on_note(
            f"their vectors are shortened to {factor:.0%}, so that they take {MOST_PLACES:.0%} of the first {PLACES} "
            "places of real sessions at the most"
        )
    added = new.filter(pl.Series([of_item is not None for of_item in cold]))
    return CatalogItems(
        pl.concat([known.attributes, added], how="diagonal_relaxed"),
        np.concatenate([known.popularity_N1, np.zeros(len(added), known.popularity_N1.dtype)]),
        np.vstack([known.vectors_N1D, np.float32(factor) * new_vectors_MD]).astype(np.float32),
        factor,
    )


def none_beside_votes(new: pl.DataFrame, on_note: Callable[[str], object]) -> pl.DataFrame:
    """Leave out all new items and say so.

    Items of the live catalog that became part of the bundle get votes as items like them do, and so would these, which
    would crowd those out.
    """
    if len(new):
        on_note(
            f"{len(new):,} products that training does not know are left out, beside the live catalog's new items that "
            "nearest sessions vote for; export the run again to take them in"
        )
    return new.clear()


def fair_length(known_N1D: NDArray[np.float32], new_MD: NDArray[np.float32], queries_QKD: NDArray[np.float32]) -> float:
    """Return the factor, at most 1, by which to shorten new vectors so that they take `MOST_PLACES` at the most."""
    queries_QKD = queries_QKD[:: max(1, len(queries_QKD) // MOST_QUERIES)]
    if len(known_N1D) <= PLACES or not len(queries_QKD):
        return 1.0
    overtaking = np.sort(np.concatenate([_overtaking(known_N1D, new_MD, some) for some in _parts(queries_QKD)]))
    allowed = int(MOST_PLACES * PLACES * len(queries_QKD))
    return 1.0 if len(overtaking) <= allowed else float(overtaking[allowed])


def _overtaking(
    known_N1D: NDArray[np.float32], new_MD: NDArray[np.float32], queries_QKD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return for each new item among the first places of a query the factor at which it would be there no longer."""
    last_Q1 = np.partition((queries_QKD @ known_N1D[1:].T).max(axis=1), -PLACES, axis=1)[:, [-PLACES]]
    scores_QM = (queries_QKD @ new_MD.T).max(axis=1)
    is_first_QM = (scores_QM > last_Q1) & (scores_QM > 0)
    factors: NDArray[np.float32] = (np.maximum(last_Q1, 0) / np.where(is_first_QM, scores_QM, 1))[is_first_QM]
    return factors


def _parts(queries_QKD: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [queries_QKD[start : start + QUERIES_AT_ONCE] for start in range(0, len(queries_QKD), QUERIES_AT_ONCE)]


def _described(with_vector: int, evidence: Sequence[dict[str, Any]], new: int, by_content: int) -> str:
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
    by_neighbours = with_vector - by_content
    got = [
        f"{count:,} products that training does not know got a vector from {source}"
        for count, source in (
            (by_content, "their content"),
            (by_neighbours, "items that share their attributes"),
        )
        if count or (count is by_neighbours and not by_content)
    ]
    return "; ".join([*got, *left_out])
