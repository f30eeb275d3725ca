"""The contract between training and service: how a bundle is written, published, loaded and asked."""

from service.bundle.bundle import Bundle, UnknownItemError
from service.bundle.catalog import Catalog
from service.bundle.encoder import Encoder
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
from service.bundle.options import Boost, Options, Pin, Seen
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
    "Encoder",
    "IndexInfo",
    "ItemIndex",
    "Manifest",
    "Moved",
    "Options",
    "Pin",
    "Probe",
    "Retrieval",
    "RetrievedItem",
    "Rule",
    "ScoredItem",
    "Seen",
    "Source",
    "Strategy",
    "UnknownItemError",
    "User",
    "Users",
    "current_digest",
    "is_valid_id",
    "pad_dimension",
    "publish",
    "read_manifest",
    "stage",
    "write_manifest",
]
