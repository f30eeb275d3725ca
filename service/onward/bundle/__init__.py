"""Bundles: what training exports and the service serves. Retrieving from a bundle needs neither of the two.

>>> from onward.bundle import Bundle, Options, SessionView
>>> bundle = Bundle.load("bundles/current")
>>> retrieval = bundle.retrieve(SessionView(["item-7", "item-9"]), Options(k=5))
>>> for item in retrieval.items:
...     print(item.item_id, item.score)

`Bundle.load` takes the folder of one bundle, or a link to it such as `bundles/current`. An id that the catalog does not
have is ignored and listed in `retrieval.unknown_item_ids`. Everything is imported when it is first used, so that a
command that needs little of it, as one that parses its options, does not wait for numeric libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onward.bundle.bundle import Bundle, ItemRank, UnknownItemError
    from onward.bundle.catalog.catalog import Catalog
    from onward.bundle.catalog.eligible import Eligible
    from onward.bundle.catalog.filters import Filter, FilterFault
    from onward.bundle.content.tower import ContentTower
    from onward.bundle.encoder.encoder import Encoder
    from onward.bundle.encoder.kernel import KernelUnavailable
    from onward.bundle.files.attributes import Kind, Schema, fits, infer_schema
    from onward.bundle.files.changes import ItemChange
    from onward.bundle.files.id_rule import MAX_ID_LENGTH, id_fault, is_valid_id
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
        ContentInfo,
        Defaults,
        IndexInfo,
        InputLength,
        Manifest,
        NearestSessionsInfo,
        Probe,
        RepeatsInfo,
        ScoredItem,
        TriedIndex,
        read_manifest,
        write_manifest,
    )
    from onward.bundle.files.users import Users
    from onward.bundle.gate_report import Comparison, GateReport, RuleResult, gate_fault, report_file
    from onward.bundle.publication import publish, stage
    from onward.bundle.published import PublishedBundles, current_digest
    from onward.bundle.release_record import Author
    from onward.bundle.releases import Retention, activate, find_bundle, staged_bundles
    from onward.bundle.remote_bundles import live_bundle, working_copy
    from onward.bundle.search.faiss_index import FaissIndex, SearchParameters, pad_dimension
    from onward.bundle.search.index import Candidates, ItemIndex, Strategy
    from onward.bundle.search.nearest_sessions import NearestSessions, StoredSessions, write_stored_sessions
    from onward.bundle.search.retrieval import (
        Boost,
        Options,
        Pin,
        RankingDetails,
        Retrieval,
        RetrievalQuery,
        RetrievedItem,
        RetrievedItems,
        Rule,
        SessionView,
        Source,
        User,
    )
    from onward.bundle.storage import place_of

__all__ = [
    "ATTRIBUTES",
    "ENCODER",
    "ENCODER_DATA",
    "INDEX",
    "MANIFEST",
    "MAX_ID_LENGTH",
    "QUERIES",
    "TABLE",
    "USERS",
    "VECTORS",
    "WEIGHTS",
    "Author",
    "Boost",
    "Bundle",
    "BundleError",
    "Candidates",
    "Catalog",
    "Comparison",
    "ContentInfo",
    "ContentTower",
    "Defaults",
    "Eligible",
    "Encoder",
    "FaissIndex",
    "Filter",
    "FilterFault",
    "GateReport",
    "IndexInfo",
    "InputLength",
    "ItemChange",
    "ItemIndex",
    "ItemRank",
    "KernelUnavailable",
    "Kind",
    "Manifest",
    "NearestSessions",
    "NearestSessionsInfo",
    "Options",
    "Pin",
    "Probe",
    "PublishedBundles",
    "RankingDetails",
    "RepeatsInfo",
    "Retention",
    "Retrieval",
    "RetrievalQuery",
    "RetrievedItem",
    "RetrievedItems",
    "Rule",
    "RuleResult",
    "Schema",
    "ScoredItem",
    "SearchParameters",
    "SessionView",
    "Source",
    "StoredSessions",
    "Strategy",
    "TriedIndex",
    "UnknownItemError",
    "User",
    "Users",
    "activate",
    "current_digest",
    "find_bundle",
    "fits",
    "gate_fault",
    "id_fault",
    "infer_schema",
    "is_valid_id",
    "live_bundle",
    "pad_dimension",
    "place_of",
    "publish",
    "read_manifest",
    "report_file",
    "stage",
    "staged_bundles",
    "working_copy",
    "write_manifest",
    "write_stored_sessions",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "bundle": ("Bundle", "ItemRank", "UnknownItemError"),
    "catalog.catalog": ("Catalog",),
    "catalog.eligible": ("Eligible",),
    "catalog.filters": ("Filter", "FilterFault"),
    "content.tower": ("ContentTower",),
    "encoder.encoder": ("Encoder",),
    "encoder.kernel": ("KernelUnavailable",),
    "files.attributes": ("Kind", "Schema", "fits", "infer_schema"),
    "files.changes": ("ItemChange",),
    "files.id_rule": ("MAX_ID_LENGTH", "id_fault", "is_valid_id"),
    "files.manifest": (
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
        "BundleError",
        "ContentInfo",
        "Defaults",
        "IndexInfo",
        "InputLength",
        "Manifest",
        "NearestSessionsInfo",
        "Probe",
        "RepeatsInfo",
        "ScoredItem",
        "TriedIndex",
        "read_manifest",
        "write_manifest",
    ),
    "files.users": ("Users",),
    "gate_report": ("Comparison", "GateReport", "RuleResult", "gate_fault", "report_file"),
    "publication": ("publish", "stage"),
    "published": ("PublishedBundles", "current_digest"),
    "release_record": ("Author",),
    "releases": ("Retention", "activate", "find_bundle", "staged_bundles"),
    "remote_bundles": ("live_bundle", "working_copy"),
    "search.faiss_index": ("FaissIndex", "SearchParameters", "pad_dimension"),
    "search.index": ("Candidates", "ItemIndex", "Strategy"),
    "search.nearest_sessions": ("NearestSessions", "StoredSessions", "write_stored_sessions"),
    "search.retrieval": (
        "Boost",
        "Options",
        "Pin",
        "RankingDetails",
        "Retrieval",
        "RetrievalQuery",
        "RetrievedItem",
        "RetrievedItems",
        "Rule",
        "SessionView",
        "Source",
        "User",
    ),
    "storage": ("place_of",),
}
"""The names that each module defines."""
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
