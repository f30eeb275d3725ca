"""The contract between training and service: how a bundle is written, published, loaded and asked."""

from service.bundle.attributes import Kind, Schema, fits, infer_schema
from service.bundle.bundle import Bundle, Standing, UnknownItemError
from service.bundle.catalog import Catalog
from service.bundle.changes import ItemChange
from service.bundle.eligible import Eligible
from service.bundle.encoder import Encoder
from service.bundle.filters import Filter, FilterFault
from service.bundle.index import Candidates, ItemIndex, Strategy, pad_dimension
from service.bundle.manifest import (
    ATTRIBUTES,
    ENCODER,
    ENCODER_DATA,
    INDEX,
    MANIFEST,
    QUERIES,
    USERS,
    VECTORS,
    BundleError,
    Defaults,
    IndexInfo,
    Manifest,
    Probe,
    ScoredItem,
    is_valid_id,
    read_manifest,
    write_manifest,
)
from service.bundle.options import Boost, Options, Pin, Seen, Wanted
from service.bundle.publish import current_digest, publish, stage
from service.bundle.retrieval import Moved, Retrieval, RetrievedItem, Rule, Source, User
from service.bundle.users import Users

__all__ = [
    "ATTRIBUTES",
    "ENCODER",
    "ENCODER_DATA",
    "INDEX",
    "MANIFEST",
    "QUERIES",
    "USERS",
    "VECTORS",
    "Boost",
    "Bundle",
    "BundleError",
    "Candidates",
    "Catalog",
    "Defaults",
    "Eligible",
    "Encoder",
    "Filter",
    "FilterFault",
    "IndexInfo",
    "ItemChange",
    "ItemIndex",
    "Kind",
    "Manifest",
    "Moved",
    "Options",
    "Pin",
    "Probe",
    "Retrieval",
    "RetrievedItem",
    "Rule",
    "Schema",
    "ScoredItem",
    "Seen",
    "Source",
    "Standing",
    "Strategy",
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
