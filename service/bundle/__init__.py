"""The contract between training and service: how a bundle is written, published, loaded and asked."""

from service.bundle.attributes import Kind, Schema, fits, infer_schema
from service.bundle.bundle import Bundle, Standing, UnknownItemError
from service.bundle.catalog import Catalog
from service.bundle.changes import ItemChange
from service.bundle.eligible import Eligible
from service.bundle.encoder import Encoder, KernelUnavailable
from service.bundle.faiss_index import Effort, FaissIndex, pad_dimension
from service.bundle.filters import Filter, FilterFault
from service.bundle.index import Candidates, ItemIndex, Strategy
from service.bundle.manifest import (
    ATTRIBUTES,
    ENCODER,
    ENCODER_DATA,
    INDEX,
    MANIFEST,
    QUERIES,
    TABLE,
    USERS,
    VECTORS,
    WEIGHTS,
    BundleError,
    Defaults,
    IndexInfo,
    Manifest,
    Probe,
    ScoredItem,
    TriedIndex,
    is_valid_id,
    read_manifest,
    write_manifest,
)
from service.bundle.options import Boost, Options, Pin, Seen, Wanted
from service.bundle.publish import current_digest, publish, stage
from service.bundle.retrieval import Moved, Retrieval, RetrievedItem, RetrievedItems, Rule, Source, User
from service.bundle.users import Users

__all__ = [
    "ATTRIBUTES",
    "ENCODER",
    "ENCODER_DATA",
    "INDEX",
    "MANIFEST",
    "QUERIES",
    "TABLE",
    "USERS",
    "VECTORS",
    "WEIGHTS",
    "Boost",
    "Bundle",
    "BundleError",
    "Candidates",
    "Catalog",
    "Defaults",
    "Effort",
    "Eligible",
    "Encoder",
    "FaissIndex",
    "Filter",
    "FilterFault",
    "IndexInfo",
    "ItemChange",
    "ItemIndex",
    "KernelUnavailable",
    "Kind",
    "Manifest",
    "Moved",
    "Options",
    "Pin",
    "Probe",
    "Retrieval",
    "RetrievedItem",
    "RetrievedItems",
    "Rule",
    "Schema",
    "ScoredItem",
    "Seen",
    "Source",
    "Standing",
    "Strategy",
    "TriedIndex",
    "UnknownItemError",
    "User",
    "Users",
    "Wanted",
    "current_digest",
    "fits",
    "infer_schema",
    "is_valid_id",
    "pad_dimension",
    "publish",
    "read_manifest",
    "stage",
    "write_manifest",
]
