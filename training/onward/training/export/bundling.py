"""The parts of a bundle that no encoder is needed for: its catalog, its probes, its publication."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.bundle import Bundle, Catalog, Kind, Manifest, publish, write_manifest


class ProbeQuery(NamedTuple):
    """A session that a probe asks about: ids of its items, and of its user where it is to name one."""

    items: Sequence[str]
    user_id: str | None = None


def write_catalog(
    folder: Path, ids: Sequence[str], popularity_N1: NDArray[Any], attributes: pl.DataFrame
) -> dict[str, Kind]:
    """Write a bundle's catalog and return the kinds of its attributes, which the manifest has.

    `attributes` has item_id and a column for each attribute, in order of rows.
    """
    objects = json_attributes(attributes.drop("item_id"))
    return Catalog.write(folder, ids, popularity_N1, objects, availability(attributes))


def availability(attributes: pl.DataFrame) -> NDArray[np.bool_]:
    """(N + 1,): False where the column `available` says so; items of which it says nothing are available."""
    available_N1 = np.ones(attributes.height + 1, dtype=np.bool_)
    if "available" in attributes.columns:
        available_N1[1:] = attributes["available"].cast(pl.Boolean).fill_null(value=True).to_numpy()
    return available_N1


def json_attributes(attributes: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Each row as an object without its nulls; dates as ISO 8601."""
    for row in attributes.iter_rows(named=True):
        yield {name: _json_value(value) for name, value in row.items() if value is not None}


def publish_with_probes(staging: Path, manifest: Manifest, bundles: Path, asked: Sequence[ProbeQuery]) -> str:
    """Ask the staged bundle, keep its answers as probes, publish it and return its digest."""
    write_manifest(staging, manifest)
    bundle = Bundle.load(staging, verify=False)
    probes = tuple(bundle.probe(items, user_id=user_id) for items, user_id in asked)
    return publish(staging, manifest.model_copy(update={"probes": probes}), bundles)


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value
