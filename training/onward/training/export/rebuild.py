"""A new bundle from the current one without any training: another catalog, another index."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.bundle import (
    ENCODER,
    ENCODER_DATA,
    INDEX,
    QUERIES,
    TABLE,
    USERS,
    VECTORS,
    WEIGHTS,
    Bundle,
    Catalog,
    stage,
)
from onward.bundle.catalog.cold_start import ColdStart
from onward.bundle.catalog.live_item import StoredChange, read_changes
from onward.bundle.files.changes import ItemChange
from onward.training.data.readers.attributes import read_attributes
from onward.training.data.readers.formats import Format
from onward.training.errors import InputError
from onward.training.export.bundling import Asked, availability, json_attributes, publish_with_probes
from onward.training.index.indexing import build_index
from onward.training.index.kind import TARGET_RECALL, IndexKind

KEPT = (ENCODER, ENCODER_DATA, TABLE, WEIGHTS, QUERIES, USERS)


@dataclass(frozen=True, slots=True)
class Items:
    """The items of the new bundle, in rows 1..R.

    Dimension key: R items, D embedding.
    """

    ids: Sequence[str]
    popularity_R1: NDArray[np.float32]
    available_R1: NDArray[np.bool_]
    attributes: Iterable[Mapping[str, Any]]
    vectors_R1D: NDArray[np.float32]
    folded_changes: int
    """The last change of the live catalog that is in all of it."""


def rebuild(
    bundles: Path,
    *,
    items: Path | None = None,
    items_format: Format | None = None,
    items_column: str | None = None,
    changes: Path | None = None,
    index: IndexKind = IndexKind.AUTO,
    target_recall: float = TARGET_RECALL,
    on_step: Callable[[str], object] = lambda step: None,
) -> str:
    """Publish the current bundle anew with its index built again, and return the new digest.

    Args:
        bundles: the folder of bundles.
        items: the new catalog, a file of item attributes. An item that it does not have is understood in sessions but
            no longer recommended; one that no training saw has no vector yet, and is left out and told.
        items_format: of that file; by its extension where None.
        items_column: the item id in that file; guessed where None.
        changes: what `onward-service changes` wrote: changes of the live catalog, to become part of the bundle. A new
            item gets a row behind those that the encoder knows; one that has no vector yet is left out and told.
        index: which index to build.
        target_recall: recall@20 of the index against exact search.
        on_step: told what goes on, for a progress display.

    Raises:
        InputError: there is no current bundle, it holds no queries to tune an index on, or a file is unusable.
        BundleError: the current bundle is damaged.
    """
    if items is not None and changes is not None:
        raise InputError("--items and --changes: rebuild with one, then with the other")
    if not (bundles / "current").is_symlink():
        raise InputError(f"{bundles}: holds no current bundle; export one first")
    live_changes = [] if changes is None else _read(changes)
    on_step("checking the current bundle")
    source = (bundles / "current").resolve()
    current = Bundle.load(source)
    if not (source / QUERIES).exists():
        raise InputError(f"{source}: holds no {QUERIES} to tune an index on; export the run again")
    new = (
        _with_changes(current, live_changes, on_step)
        if items is None
        else _listed(current, read_attributes(str(items), items_format, items_column).items, on_step)
    )
    with stage(bundles) as staging:
        for name in KEPT:
            if (source / name).exists():
                os.link(source / name, staging / name)
        if len(new.ids) == current.manifest.items:
            os.link(source / VECTORS, staging / VECTORS)
        else:
            np.save(staging / VECTORS, new.vectors_R1D)
        kinds = Catalog.write(staging, new.ids, new.popularity_R1, new.attributes, new.available_R1)
        queries_QKD = np.load(source / QUERIES, allow_pickle=False)
        faiss_index, index_info = build_index(
            new.vectors_R1D, queries_QKD, index, target_recall=target_recall, on_step=on_step
        )
        faiss.write_index(faiss_index, str(staging / INDEX))
        encodable = current.manifest.encodable_items
        manifest = current.manifest.model_copy(
            update={
                "created": datetime.now(UTC),
                "items": len(new.ids),
                "encoder_items": None if encodable == len(new.ids) else encodable,
                "attributes": kinds,
                "folded_changes": new.folded_changes,
                "index": index_info,
                "files": {},
                "probes": (),
            }
        )
        on_step("checking and publishing the bundle")
        asked = [Asked(probe.items, probe.user_id) for probe in current.manifest.probes]
        return publish_with_probes(staging, manifest, bundles, asked)


def _read(changes: Path) -> list[StoredChange]:
    try:
        return read_changes(changes)
    except ValueError as error:
        raise InputError(str(error)) from error


def _with_changes(bundle: Bundle, changes: Sequence[StoredChange], on_step: Callable[[str], object]) -> Items:
    """The items as the service shows them with these changes, new ones behind the others."""
    cold_items = ColdStart(bundle.catalog, bundle.vectors_N1D)
    catalog = bundle.with_changes([_change(bundle, cold_items, change) for change in changes]).catalog
    new = [change for change in catalog.cold if change.vector_D is not None]
    left_out = [change for change in catalog.cold if change.vector_D is None]
    if left_out:
        on_step(f"{len(left_out):,} new items have no vector yet; left out, they stay in the live catalog")
    last = max((change.sequence for change in changes), default=0)
    ids = [*map(catalog.item_id, range(1, catalog.items + 1)), *(change.item_id for change in new)]
    return Items(
        ids=ids,
        popularity_R1=np.concatenate([catalog.popularity_N1, np.zeros(len(new), dtype=np.float32)]),
        available_R1=np.concatenate([catalog.available_N1, np.array([change.shown for change in new], dtype=np.bool_)]),
        attributes=(_attributes(catalog, item_id) for item_id in ids),
        vectors_R1D=np.vstack(
            [bundle.vectors_N1D, *(change.vector_D for change in new if change.vector_D is not None)]
        ),
        folded_changes=max(bundle.manifest.folded_changes, min([last, *(change.sequence - 1 for change in left_out)])),
    )


def _change(bundle: Bundle, cold_items: ColdStart, change: StoredChange) -> ItemChange:
    is_new = bundle.catalog.row(change.item_id) is None and not change.deleted
    cold = cold_items.vector(change.as_cold()) if is_new else None
    return change.change(change.item_id, change.sequence, None if cold is None else cold.vector_D)


def _attributes(catalog: Catalog, item_id: str) -> Mapping[str, Any]:
    row = catalog.row(item_id)
    assert row is not None  # noqa: S101  # the ids are the catalog's own
    attributes = catalog.attributes(row)
    return {**attributes, "available": False} if catalog.is_deleted(item_id) else attributes


def _listed(bundle: Bundle, given: pl.DataFrame, on_step: Callable[[str], object]) -> Items:
    """The bundle's items with what is given of each; those of which nothing is are not available."""
    ids = [bundle.catalog.item_id(row) for row in range(1, len(bundle.catalog) + 1)]
    known = pl.DataFrame({"item_id": ids})
    without_vector = given.join(known, on="item_id", how="anti").height
    if without_vector:
        on_step(f"{without_vector:,} items of the catalog have no vector, since no training saw them; left out")
    available = pl.col("available") if "available" in given.columns else pl.lit(None, pl.Boolean)
    listed = given.with_columns(available.alias("available"), listed=pl.lit(value=True))
    attributes = known.join(listed, on="item_id", how="left", maintain_order="left")
    attributes = attributes.with_columns(
        available=pl.when(pl.col("listed")).then("available").otherwise(pl.lit(value=False))
    ).drop("listed")
    return Items(
        ids=ids,
        popularity_R1=bundle.catalog.popularity_N1,
        available_R1=availability(attributes),
        attributes=json_attributes(attributes.drop("item_id")),
        vectors_R1D=bundle.vectors_N1D,
        folded_changes=0,
    )
