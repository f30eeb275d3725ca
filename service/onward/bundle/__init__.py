"""The contract between training and service: how a bundle is written, published, loaded and asked."""

from onward.bundle.bundle import Bundle, ItemRank, UnknownItemError
from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter, FilterFault
from onward.bundle.encoder.encoder import Encoder, KernelUnavailable
from onward.bundle.files.attributes import Kind, Schema, fits, infer_schema
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.manifest import (
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
from onward.bundle.files.users import Users
from onward.bundle.publish import current_digest, publish, stage
from onward.bundle.search.faiss_index import FaissIndex, SearchParameters, pad_dimension
from onward.bundle.search.index import Candidates, ItemIndex, Strategy
from onward.bundle.search.options import Boost, Options, Pin, RetrievalQuery, SessionView
from onward.bundle.search.retrieval import Moved, Retrieval, RetrievedItem, RetrievedItems, Rule, Source, User

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
    "Eligible",
    "Encoder",
    "FaissIndex",
    "Filter",
    "FilterFault",
    "IndexInfo",
    "ItemChange",
    "ItemIndex",
    "ItemRank",
    "KernelUnavailable",
    "Kind",
    "Manifest",
    "Moved",
    "Options",
    "Pin",
    "Probe",
    "Retrieval",
    "RetrievalQuery",
    "RetrievedItem",
    "RetrievedItems",
    "Rule",
    "Schema",
    "ScoredItem",
    "SearchParameters",
    "SessionView",
    "Source",
    "Strategy",
    "TriedIndex",
    "UnknownItemError",
    "User",
    "Users",
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
