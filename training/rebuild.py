"""A new bundle from the current one without any training: another catalog, another index."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import polars as pl

from service.bundle import ENCODER, ENCODER_DATA, INDEX, QUERIES, USERS, VECTORS, Bundle, stage
from training.bundling import Asked, publish_with_probes, write_catalog
from training.data.attributes import read_attributes
from training.data.formats import Format
from training.errors import InputError
from training.index_kind import IndexKind
from training.indexing import build_index

KEPT = (ENCODER, ENCODER_DATA, VECTORS, QUERIES, USERS)


def rebuild(
    bundles: Path,
    *,
    items: Path | None = None,
    items_format: Format | None = None,
    items_column: str | None = None,
    index: IndexKind = IndexKind.AUTO,
    target_recall: float = 0.99,
    on_step: Callable[[str], object] = lambda step: None,
) -> str:
    """Publish the current bundle anew with its index built again, and return the new digest.

    Args:
        bundles: the folder of bundles.
        items: the new catalog, a file of item attributes. An item that it does not have is understood in sessions but
            no longer recommended; one that no training saw has no vector yet, and is left out and told.
        items_format: of that file; by its extension where None.
        items_column: the item id in that file; guessed where None.
        index: which index to build.
        target_recall: recall@20 of the index against exact search.
        on_step: told what goes on, for a progress display.

    Raises:
        InputError: there is no current bundle, it holds no queries to tune an index on, or the file is unusable.
        BundleError: the current bundle is damaged.
    """
    if not (bundles / "current").is_symlink():
        raise InputError(f"{bundles}: holds no current bundle; export one first")
    on_step("checking the current bundle")
    source = (bundles / "current").resolve()
    current = Bundle.load(source)
    if not (source / QUERIES).exists():
        raise InputError(f"{source}: holds no {QUERIES} to tune an index on; export the run again")
    ids = [current.catalog.item_id(row) for row in range(1, len(current.catalog) + 1)]
    attributes = (
        _kept_attributes(current, ids)
        if items is None
        else _new_attributes(ids, read_attributes(str(items), items_format, items_column).items, on_step)
    )
    with stage(bundles) as staging:
        for name in KEPT:
            if (source / name).exists():
                os.link(source / name, staging / name)
        kinds = write_catalog(staging, ids, current.catalog.popularity_N1, attributes)
        queries_QKD = np.load(source / QUERIES, allow_pickle=False)
        faiss_index, index_info = build_index(
            current.vectors_N1D, queries_QKD, index, target_recall=target_recall, on_step=on_step
        )
        faiss.write_index(faiss_index, str(staging / INDEX))
        manifest = current.manifest.model_copy(
            update={
                "created": datetime.now(UTC),
                "attributes": kinds,
                "index": index_info,
                "files": {},
                "probes": (),
            }
        )
        on_step("checking and publishing the bundle")
        asked = [Asked(probe.items, probe.user_id) for probe in current.manifest.probes]
        return publish_with_probes(staging, manifest, bundles, asked)


def _kept_attributes(bundle: Bundle, ids: list[str]) -> pl.DataFrame:
    known = [{"item_id": item_id, **bundle.catalog.attributes(row)} for row, item_id in enumerate(ids, start=1)]
    return pl.DataFrame(known, infer_schema_length=None)


def _new_attributes(ids: list[str], given: pl.DataFrame, on_step: Callable[[str], object]) -> pl.DataFrame:
    """What is given of each item; `available` is false for items of which nothing is."""
    known = pl.DataFrame({"item_id": ids})
    without_vector = given.join(known, on="item_id", how="anti").height
    if without_vector:
        on_step(f"{without_vector:,} items of the catalog have no vector, since no training saw them; left out")
    available = pl.col("available") if "available" in given.columns else pl.lit(None, pl.Boolean)
    listed = given.with_columns(available.alias("available"), listed=pl.lit(value=True))
    attributes = known.join(listed, on="item_id", how="left", maintain_order="left")
    return attributes.with_columns(
        available=pl.when(pl.col("listed")).then("available").otherwise(pl.lit(value=False))
    ).drop("listed")
