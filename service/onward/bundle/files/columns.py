"""Attribute columns in memory-mapped files, which all processes of a machine share instead of parsing all items.

One file lists the attributes and their kinds; each attribute has three more files: which rows have it, its values, and
the row of each value.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from onward.bundle.files.arrays import check_booleans, check_finite, open_array
from onward.bundle.files.attributes import VALUE_TYPES, Column, Columns, Schema
from onward.bundle.files.manifest import COLUMNS, BundleError, column_files


def write_columns(folder: Path, columns: Columns) -> None:
    """Write the column of every attribute."""
    columns.build_all()
    for attribute, files in zip(columns.schema, column_files(len(columns.schema)), strict=True):
        column = columns[attribute]
        for name, array in zip(files, (column.present_R, column.values_V, column.rows_V), strict=True):
            np.save(folder / name, array)
    (folder / COLUMNS).write_text(json.dumps(columns.schema), encoding="utf-8")


def read_columns(folder: Path, schema: Schema, size: int) -> dict[str, Column]:
    """Map the columns of `size` rows; empty if the bundle has no columns of exactly this schema. Raises BundleError."""
    stored_schema = _read_schema(folder / COLUMNS) if (folder / COLUMNS).exists() else {}
    if stored_schema != schema:
        return {}
    columns: dict[str, Column] = {}
    for attribute, (present, values, rows) in zip(stored_schema, column_files(len(stored_schema)), strict=True):
        kind = schema[attribute]
        rows_V = open_array(folder / rows, np.int32, (None,))
        if len(rows_V) and not 0 < rows_V.min() <= rows_V.max() < size:
            raise BundleError(f"{rows}: contains a row without an item")
        present_R = open_array(folder / present, np.bool_, (size,))
        check_booleans(present, present_R)
        values_V = open_array(folder / values, VALUE_TYPES.get(kind, np.int64), rows_V.shape)
        if np.issubdtype(values_V.dtype, np.floating):
            check_finite(values, values_V)
        columns[attribute] = Column(kind, present_R, values_V, rows_V)
    return columns


def _read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BundleError(f"{path.name}: not JSON") from error
