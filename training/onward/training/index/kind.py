"""The kinds of index and the target recalls, without importing FAISS."""

from enum import StrEnum

TARGET_RECALL, FAST_RECALL = 0.99, 0.95
"""Recall@20 against exact search that an index is tuned to: by default, and if speed matters more."""


class IndexKind(StrEnum):
    """The values of `--index`."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"
    HNSW = "hnsw"
