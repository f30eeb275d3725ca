"""Which index a bundle gets."""

from enum import StrEnum

TARGET_RECALL, FAST_RECALL = 0.99, 0.95
"""Recall@20 against exact search that an index is tuned to, and that of one which is to be fast rather than exact."""


class IndexKind(StrEnum):
    """What `--index` asks for."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"
    HNSW = "hnsw"
