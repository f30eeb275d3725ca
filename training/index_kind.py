"""Which index a bundle gets."""

from enum import StrEnum


class IndexKind(StrEnum):
    """What `--index` asks for."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"
    HNSW = "hnsw"
