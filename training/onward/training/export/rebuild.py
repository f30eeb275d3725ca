"""Rebuild the current bundle without training: with a new catalog or another index."""

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
    ContentInfo,
    Retention,
    stage,
    write_stored_sessions,
)
from onward.bundle.catalog.cold_start import ColdStart
from onward.bundle.catalog.live_item import StoredChange, read_changes
from onward.bundle.data_report import DataReport
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.manifest import CONTENT_FILES, NEAREST_FILES
from onward.bundle.release_record import ReleaseRecord
from onward.bundle.releases import DEFAULT_RETENTION
from onward.bundle.search.nearest_sessions import read_stored_sessions
from onward.training.data.readers.attributes import read_attributes
from onward.training.data.readers.formats import Format
from onward.training.data.session_index import with_items
from onward.training.errors import InputError, disk_faults
from onward.training.export.bundling import ProbeQuery, availability, json_attributes, publish_with_probes
from onward.training.export.new_items import CatalogItems, none_beside_votes, with_new_items
from onward.training.export.new_sessions import write_with_new_sessions
from onward.training.index.indexing import build_index
from onward.training.index.kind import TARGET_RECALL, IndexKind

LINKED_FILES = (ENCODER, ENCODER_DATA, TABLE, WEIGHTS, QUERIES, USERS)


@dataclass(frozen=True, slots=True)
class RebuiltCatalog:
    """The items of the rebuilt bundle, in rows 1..R.

    Dimension key: R items, D embedding.
    """

    ids: Sequence[str]
    popularity_R1: NDArray[np.float32]
    available_R1: NDArray[np.bool_]
    attributes: Iterable[Mapping[str, Any]]
    vectors_R1D: NDArray[np.float32]
    folded_changes: int
    """The sequence number up to which changes of the live catalog are included."""
    factor: float = 1.0
    """By what the vectors of the new items were shortened."""


def rebuild(
    bundles: Path,
    *,
    items: Path | str | None = None,
    items_format: Format | None = None,
    items_column: str | None = None,
    changes: Path | None = None,
    sessions: Sequence[str] = (),
    index: IndexKind = IndexKind.AUTO,
    target_recall: float = TARGET_RECALL,
    staged: bool = False,
    retention: Retention = DEFAULT_RETENTION,
    on_step: Callable[[str], object] = lambda step: None,
    on_note: Callable[[str], object] = lambda note: None,
) -> str:
    """Rebuild the current bundle's index, with a new catalog or changes if given; publish it, return the new digest.

    Args:
        bundles: the folder of bundles.
        items: the new catalog, a file of item attributes. An item that it lacks still counts in sessions, but is no
            longer recommended. A new item gets its vector from its attributes, by the bundle's content tower or else
            from trained items that share them, and a row after those the encoder knows; if neither gives one, it is
            left out. How many is reported.
        items_format: format of that file; by its extension if None.
        items_column: item id column of that file; guessed if None.
        changes: a file of live catalog changes, written by `onward-service changes`, to make part of the bundle. A new
            item gets a row after those the encoder knows. If it has no vector yet, it is left out and reported.
        sessions: event logs whose new sessions join the bundle's nearest sessions, with the items of the new catalog.
        index: which index to build.
        target_recall: recall@20 of the index against exact search.
        staged: publish without making the bundle live.
        retention: which earlier bundles are kept.
        on_step: called with a description of each step, for a progress display.
        on_note: called with each line about items that were added or left out.

    Raises:
        InputError: there is no current bundle, it has no queries to tune an index on or, for `sessions`, no nearest
            sessions, or a file is unusable.
        BundleError: the current bundle is damaged.
    """
    if items is not None and changes is not None:
        raise InputError("--items and --changes: rebuild with one, then with the other")
    if not (bundles / "current").is_symlink():
        raise InputError(f"{bundles}: holds no current bundle; export one first")
    live_changes = [] if changes is None else _read_changes(changes)
    on_step("checking the current bundle")
    source = (bundles / "current").resolve()
    current = Bundle.load(source)
    if not (source / QUERIES).exists():
        raise InputError(f"{source}: holds no {QUERIES} to tune an index on; export the run again")
    nearest = current.manifest.nearest_sessions
    record = ReleaseRecord.read(bundles, current.digest)
    unfinished = record is not None and record.unfinished
    if sessions and nearest is None:
        raise InputError(f"--sessions: the current bundle, a {current.manifest.model}, holds no nearest sessions")
    if items is None:
        new = _with_changes(current, live_changes, on_note)
    else:
        on_step("reading the new catalog")
        attributes = read_attributes(str(items), items_format, items_column).items
        with stage(bundles) as scratch, disk_faults(bundles):
            new = _with_attributes(current, attributes, np.load(source / QUERIES, allow_pickle=False), scratch, on_note)
    with stage(bundles) as staging, disk_faults(bundles):
        if sessions and nearest is not None:
            nearest = write_with_new_sessions(source, staging, nearest, new.ids, sessions, on_step)
        elif items is not None and nearest is not None and _have_all_items(current):
            stored = with_items(read_stored_sessions(source, nearest), len(new.ids))
            write_stored_sessions(staging, stored)
            nearest = nearest.model_copy(update={"items": len(new.ids)})
        for name in (*LINKED_FILES, *CONTENT_FILES, *NEAREST_FILES):
            if (source / name).exists() and not (staging / name).exists():
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
                "nearest_sessions": nearest,
                "content": current.manifest.content and _shortened(current.manifest.content, new.factor),
                "index": index_info,
                "files": {},
                "probes": (),
            }
        )
        on_step("checking and publishing the bundle")
        queries = [ProbeQuery(probe.items, probe.user_id) for probe in current.manifest.probes]
        report = DataReport.read(bundles, current.digest)
        digest = publish_with_probes(
            staging, manifest, bundles, queries, make_live=not staged, unfinished=unfinished, retention=retention
        )
        if report is not None:
            report.write(bundles, digest)
        return digest


def _shortened(content: ContentInfo, factor: float) -> ContentInfo:
    """Return the entry of a content tower whose vectors are shortened by one more factor, for all items to come."""
    return content.model_copy(update={"factor": content.factor * factor})


def _read_changes(changes: Path) -> list[StoredChange]:
    try:
        return read_changes(changes)
    except ValueError as error:
        raise InputError(str(error)) from error


def _with_changes(bundle: Bundle, changes: Sequence[StoredChange], on_note: Callable[[str], object]) -> RebuiltCatalog:
    """Return the items as the service shows them with these changes applied; new items come last."""
    cold_start = bundle.cold_start()
    catalog = bundle.with_changes([_with_vector(bundle, cold_start, change) for change in changes]).catalog
    new = [change for change in catalog.new_items if change.vector_D is not None]
    left_out = [change for change in catalog.new_items if change.vector_D is None]
    if left_out:
        on_note(f"{len(left_out):,} new items have no vector yet; left out, they stay in the live catalog")
    last = max((change.sequence for change in changes), default=0)
    ids = [*map(catalog.item_id, range(1, catalog.items + 1)), *(change.item_id for change in new)]
    return RebuiltCatalog(
        ids=ids,
        popularity_R1=np.concatenate([catalog.popularity_N1, np.zeros(len(new), dtype=np.float32)]),
        available_R1=np.concatenate([catalog.available_N1, np.array([change.shown for change in new], dtype=np.bool_)]),
        attributes=(_attributes_of(catalog, item_id) for item_id in ids),
        vectors_R1D=np.vstack(
            [bundle.vectors_N1D, *(change.vector_D for change in new if change.vector_D is not None)]
        ),
        folded_changes=max(bundle.manifest.folded_changes, min([last, *(change.sequence - 1 for change in left_out)])),
    )


def _with_vector(bundle: Bundle, cold_start: ColdStart, change: StoredChange) -> ItemChange:
    is_new = bundle.catalog.row(change.item_id) is None and not change.deleted
    cold = cold_start.vector(change.as_cold()) if is_new else None
    return change.change(change.item_id, change.sequence, None if cold is None else cold.vector_D)


def _attributes_of(catalog: Catalog, item_id: str) -> Mapping[str, Any]:
    row = catalog.row(item_id)
    assert row is not None  # noqa: S101  # the ids come from this catalog
    attributes = catalog.attributes(row)
    return {**attributes, "available": False} if catalog.is_deleted(item_id) else attributes


def _have_all_items(bundle: Bundle) -> bool:
    """Return whether nearest sessions, if there are any, know all items, and vote for none as for items like it."""
    nearest = bundle.manifest.nearest_sessions
    return nearest is None or nearest.items == bundle.manifest.items


def _with_attributes(
    bundle: Bundle,
    new: pl.DataFrame,
    queries_QKD: NDArray[np.float32],
    scratch: Path,
    on_note: Callable[[str], object],
) -> RebuiltCatalog:
    """Return the bundle's items with the attributes in `new`, unavailable if missing there, and then the new items."""
    known = pl.DataFrame({"item_id": [bundle.catalog.item_id(row) for row in range(1, len(bundle.catalog) + 1)]})
    available = pl.col("available") if "available" in new.columns else pl.lit(None, pl.Boolean)
    listed = new.with_columns(available.alias("available"))
    attributes = known.join(
        listed.with_columns(listed=pl.lit(value=True)), on="item_id", how="left", maintain_order="left"
    )
    attributes = attributes.with_columns(
        available=pl.when(pl.col("listed")).then("available").otherwise(pl.lit(value=False))
    ).drop("listed")
    unknown = listed.join(known, on="item_id", how="anti", maintain_order="left")
    items = with_new_items(
        CatalogItems(attributes, bundle.catalog.popularity_N1, bundle.vectors_N1D),
        unknown if _have_all_items(bundle) else none_beside_votes(unknown, on_note),
        scratch,
        trained_items=bundle.manifest.encodable_items,
        queries_QKD=queries_QKD,
        content=bundle.content,
        on_note=on_note,
    )
    return RebuiltCatalog(
        ids=items.ids,
        popularity_R1=items.popularity_N1,
        available_R1=availability(items.attributes),
        attributes=json_attributes(items.attributes.drop("item_id")),
        vectors_R1D=items.vectors_N1D,
        folded_changes=0,
        factor=items.factor,
    )
