"""The steps that export and rebuild share: write the catalog, run the probes and publish."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onward.bundle import Bundle, Catalog, Kind, Manifest, Retention, publish, write_manifest
from onward.bundle.releases import DEFAULT_RETENTION
from onward.training.errors import InputError


class ProbeQuery(NamedTuple):
    """The query of a probe: the item ids of a session, and optionally its user."""

    items: Sequence[str]
    user_id: str | None = None


def write_catalog(
    folder: Path, ids: Sequence[str], popularity_N1: NDArray[Any], attributes: pl.DataFrame
) -> dict[str, Kind]:
    """Write a bundle's catalog and return the kinds of its attributes, for the manifest.

    `attributes` has item_id and a column for each attribute, in order of rows.
    """
    objects = json_attributes(attributes.drop("item_id"))
    return Catalog.write(folder, ids, popularity_N1, objects, availability(attributes))


def availability(attributes: pl.DataFrame) -> NDArray[np.bool_]:
    """Return the availability of each row, (N + 1,): the column `available`, and True if a value or it is missing.

    Raises InputError if no item is available.
    """
    available_N1 = np.ones(attributes.height + 1, dtype=np.bool_)
    if "available" in attributes.columns:
        available_N1[1:] = attributes["available"].cast(pl.Boolean).fill_null(value=True).to_numpy()
    if attributes.height and not available_N1[1:].any():
        raise InputError("no item is available, so none could be recommended: correct `available` in the items")
    return available_N1


def json_attributes(attributes: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield each row as a JSON object, without nulls and with dates as ISO 8601."""
    for row in attributes.iter_rows(named=True):
        yield {name: _json_value(value) for name, value in row.items() if value is not None}


def publish_with_probes(
    staging: Path,
    manifest: Manifest,
    bundles: Path,
    queries: Sequence[ProbeQuery],
    *,
    make_live: bool = True,
    unfinished: bool = False,
    retention: Retention = DEFAULT_RETENTION,
) -> str:
    """Run the queries on the bundle in `staging`, store its results as probes, publish it and return its digest."""
    write_manifest(staging, manifest)
    bundle = Bundle.load(staging, verify=False)
    probes = tuple(bundle.probe(items, user_id=user_id) for items, user_id in queries)
    complete = manifest.model_copy(update={"probes": probes})
    return publish(staging, complete, bundles, make_live=make_live, unfinished=unfinished, retention=retention)


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value
