"""The manifest: what a bundle contains and in which format, with the size and hash of every other file.

Dimension key: N items, D embedding, K interests, L items of a session.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from onward.bundle.files.attributes import Kind
from onward.bundle.validation import message_of

MANIFEST = "manifest.json"
ENCODER, ENCODER_DATA = "encoder.onnx", "encoder.onnx.data"
TABLE, WEIGHTS = "encoder_table.npy", "encoder_weights.npy"
"""float32 arrays of a compiled kernel; the encoder program reads the table too."""
VECTORS = "vectors.npy"
INDEX = "index.faiss"
IDS, USERS = "ids.txt", "users.txt"
COLUMNS = "attribute_columns.json"
"""The schema of the attributes whose columns are in `column_files`."""
ATTRIBUTES, ATTRIBUTES_OFFSETS = "attributes.jsonl", "attributes_offsets.npy"
AVAILABLE = "available.npy"
POPULARITY = "popularity.npy"
NEAREST_ITEMS, NEAREST_ITEMS_OFFSETS = "nearest_items.npy", "nearest_items_offsets.npy"
"""int32 rows of past sessions, session after session, and int64 offsets of the sessions."""
NEAREST_SESSIONS, NEAREST_SESSIONS_OFFSETS = "nearest_sessions.npy", "nearest_sessions_offsets.npy"
"""int32 numbers of past sessions, row after row, and int64 offsets of the rows."""
NEAREST_COUNTS = "nearest_counts.npy"
"""int32 number of past sessions of each row."""
CONTENT = "content.onnx"
"""The program from the features of attributes to an item vector."""
CONTENT_FEATURES, CONTENT_RARITY = "content_features.npy", "content_rarity.npy"
"""int64 digests of the features that the content program knows, and their float32 rarity."""
QUERIES = "queries.npy"
"""float32 (Q, K, D): interests of real sessions, to tune another index on."""

REQUIRED_FILES = frozenset(
    {ENCODER, VECTORS, INDEX, IDS, ATTRIBUTES, ATTRIBUTES_OFFSETS, AVAILABLE, POPULARITY},
)
OPTIONAL_FILES = frozenset({ENCODER_DATA, QUERIES, COLUMNS})
KERNEL_FILES = frozenset({TABLE, WEIGHTS})
"""Required if the manifest names a kernel, else not allowed."""
NEAREST_FILES = frozenset(
    {NEAREST_ITEMS, NEAREST_ITEMS_OFFSETS, NEAREST_SESSIONS, NEAREST_SESSIONS_OFFSETS, NEAREST_COUNTS}
)
"""Required if the manifest names nearest sessions, else not allowed."""
CONTENT_FILES = frozenset({CONTENT, CONTENT_FEATURES, CONTENT_RARITY})
"""Required if the manifest names content, else not allowed."""
USER_FILES = frozenset({USERS})
"""Required if the encoder knows users, else not allowed."""

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_ROW = 2**31 - 2
"""Rows are 32-bit integers in the tables that find them."""
MAX_DIMENSION = 65_536
MAX_INTERESTS = 1_024
MAX_LENGTH = 1_000
"""Longest input of an encoder: as many items as the service keeps of a session."""
MAX_SEARCH_WIDTH = 2**20
MAX_CANDIDATES_PER_K = 1_000
MAX_PARTS = 64
MAX_RANKED = 1_000
MAX_SEQUENCE = 2**53
MAX_CONTENT_FEATURES = 2**20
MAX_CANDIDATES = 100_000
"""Largest number of past sessions that one search may compare with."""

Rows = Annotated[int, Field(ge=0, le=MAX_ROW)]
SearchWidth = Annotated[int, Field(ge=1, le=MAX_SEARCH_WIDTH)]
Dimension = Annotated[int, Field(ge=1, le=MAX_DIMENSION)]
InputLength = Annotated[int, Field(ge=1, le=MAX_LENGTH)]


def column_files(attributes: int) -> list[tuple[str, str, str]]:
    """Return the names of each attribute's files: rows that have it, its values, their rows. Required with COLUMNS."""
    parts = ("present", "values", "rows")
    return [tuple(f"attribute_{number}_{part}.npy" for part in parts) for number in range(attributes)]  # type: ignore[misc]  # three parts


class BundleError(Exception):
    """A bundle that must not be served; the message is one line that names the file and the fault."""


class _ManifestPart(BaseModel):
    """Base of all parts: immutable, no unknown field, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_ManifestPart):
    """The expected size, in bytes, and hash of a file."""

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TriedIndex(_ManifestPart):
    """An index that the export tuned and measured, chosen or not."""

    description: str = Field(description="FAISS factory string, for example IVF256,SQfp16 or Flat.")
    nprobe: SearchWidth | None = Field(
        default=None, description="Lists that a search reads; null for an index without lists."
    )
    ef_search: SearchWidth | None = Field(
        default=None, description="Beam width of a search in a graph; null for an index that is not a graph."
    )
    candidates_per_k: PositiveInt = Field(
        default=1,
        le=MAX_CANDIDATES_PER_K,
        description="Candidates found by quantized vectors for each of the k results chosen by exact scores.",
    )
    recall_at_20: Annotated[float, Field(ge=0, le=1)] = Field(description="Against exact search, on real sessions.")
    search_us: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Processor time of a search, measured in turns with the others; null if not measured."
    )


class IndexInfo(TriedIndex):
    """How the index was built, and its recall against exact search."""

    padded_dimension: Dimension = Field(multiple_of=16, description="D plus the zeros appended to each vector.")
    queries: Annotated[int, Field(ge=0)] = Field(description="Number of sessions that recall_at_20 was measured on.")
    tried: tuple[TriedIndex, ...] = Field(default=(), description="The indexes that were compared.")


class KernelPart(_ManifestPart):
    """One encoder of an ensemble, whose interests are concatenated."""

    dimension: Dimension = Field(description="Dimension of this encoder's interest.")
    tabled: bool = Field(description="Whether the table holds everything derived from an item, or only its vector.")
    scale: PositiveFloat | None = Field(
        description="Length of the interest if scores are cosines; null if they are inner products."
    )


class KernelInfo(_ManifestPart):
    """The model that the bundle's compiled kernel computes."""

    model: Literal["srgnn"]
    parts: tuple[KernelPart, ...] = Field(min_length=1, max_length=MAX_PARTS)


class NearestSessionsInfo(_ManifestPart):
    """How past sessions vote for items; see `onward.bundle.search.nearest_sessions`."""

    sessions: PositiveInt = Field(le=MAX_ROW, description="S: past sessions that are stored, the newest ones.")
    counted_sessions: PositiveInt = Field(le=MAX_ROW, description="Past sessions that rarity was counted in.")
    items: PositiveInt = Field(le=MAX_ROW, description="The last row that past sessions may hold.")
    last_events: InputLength = Field(description="The most recent items of a session that are compared.")
    candidates: PositiveInt = Field(le=MAX_CANDIDATES, description="Most recent sessions that are compared with.")
    neighbours: PositiveInt = Field(le=MAX_CANDIDATES, description="Most similar candidates, which vote.")
    place_power: Literal[1, 2] = Field(
        description="Sharing the item at place p of n adds (p / n) ** place_power to a session's similarity."
    )
    match: Literal["linear", "reciprocal"] = Field(
        description="Factor of a session's vote by s, the steps back to the latest shared item: 1 - s / 10, or 1 / s."
    )
    rarity_base: NonNegativeFloat
    rarity_factor: NonNegativeFloat = Field(
        description="Votes for an item are multiplied by rarity_base + rarity_factor * ln(sessions / its sessions)."
    )
    repeat_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Share of the votes that the compared items of the session get themselves, the latest most.",
    )
    weight: PositiveFloat = Field(description="Factor of ln(1 + share of the votes / 1e-5) in the score.")
    last_event: AwareDatetime | None = Field(
        default=None, description="When the newest of the sessions ended; null if the log had no times."
    )


class ContentProbe(_ManifestPart):
    """Attributes of an item and the vector that they gave at export, before `ContentInfo.factor`."""

    attributes: dict[str, Any]
    vector: tuple[float, ...] = Field(min_length=1)


class ContentInfo(_ManifestPart):
    """How the content program reads attributes; see `onward.bundle.content.features`."""

    features: PositiveInt = Field(le=MAX_CONTENT_FEATURES, description="F: features that the program knows.")
    edges: dict[str, tuple[float, ...]] = Field(
        description="For each attribute that counts, by its path, the numbers that divide its bins, in ascending order."
    )
    dates: tuple[str, ...] = Field(default=(), description="Attributes whose texts are dates.")
    factor: PositiveFloat = Field(
        le=1, description="What vectors are multiplied by, so that new items do not crowd out trained ones."
    )
    probes: tuple[ContentProbe, ...] = Field(min_length=1)


class Defaults(_ManifestPart):
    """Defaults of request options."""

    exclude_seen: bool | Literal["last"] = Field(
        description="Leave out all items of the session, or with `last` only the last one."
    )


class ScoredItem(_ManifestPart):
    """One item of a probe's answer."""

    item_id: str
    score: float


class Probe(_ManifestPart):
    """A session and the bundle's answer at export, which the bundle must reproduce before it is served."""

    items: tuple[str, ...] = Field(min_length=1)
    user_id: str | None = Field(
        default=None, description="The known user whose session it is; null for an unknown user."
    )
    interests: tuple[tuple[float, ...], ...] = Field(min_length=1, description="K interests of D numbers.")
    top: tuple[ScoredItem, ...] = Field(min_length=1, max_length=MAX_RANKED)


class RepeatsInfo(_ManifestPart):
    """What is added to the scores of a session's own items; see `onward.bundle.search.repeats`."""

    bonuses: tuple[NonNegativeFloat, ...] = Field(
        min_length=1,
        description="By the steps back to an item's latest event: 1, 2, ...; the last one for all events before.",
    )


class Manifest(_ManifestPart):
    """The content of manifest.json; the SHA-256 of its bytes is the bundle's name."""

    format_version: Literal[1] = 1
    model: str
    recipe: str = Field(description="The recipe's TOML text.")
    data_fingerprint: str
    created: AwareDatetime
    metrics: dict[str, float] = Field(
        description="Validation metrics, without the index, of the training run that chose the epoch. If the recipe "
        "then refits on all examples, the bundle holds the refitted encoder, which these metrics do not measure."
    )
    items: PositiveInt = Field(le=MAX_ROW, description="N")
    encoder_items: PositiveInt | None = Field(
        default=None,
        description="Number of first items that the encoder knows, null for all; a rebuild added the others.",
    )
    dimension: Dimension = Field(description="D of the vectors and interests.")
    users: Rows = Field(default=0, description="U: users that the encoder knows; 0 if it reads sessions alone.")
    attributes: dict[str, Kind] = Field(
        default_factory=dict, description="The kind of each item attribute; inferred from the items if empty."
    )
    folded_changes: Annotated[int, Field(ge=0, le=MAX_SEQUENCE)] = Field(
        default=0, description="Sequence of the last live catalog change that this bundle already includes."
    )
    interests: PositiveInt = Field(le=MAX_INTERESTS, description="K")
    max_length: InputLength = Field(description="L: the most recent items of a session that the encoder reads.")
    metric: Literal["inner_product"] = "inner_product"
    defaults: Defaults
    kernel: KernelInfo | None = Field(default=None, description="Present if a compiled kernel can compute the encoder.")
    nearest_sessions: NearestSessionsInfo | None = Field(
        default=None,
        exclude_if=lambda info: info is None,  # earlier revisions refuse a field that they do not know
        description="Present if past sessions vote for items, besides the inner products.",
    )
    repeats: RepeatsInfo | None = Field(
        default=None,
        exclude_if=lambda info: info is None,  # earlier revisions refuse a field that they do not know
        description="Present if the session's own items score more than by the inner products.",
    )
    content: ContentInfo | None = Field(
        default=None,
        exclude_if=lambda info: info is None,  # earlier revisions refuse a field that they do not know
        description="Present if a content program gives items without history their vectors.",
    )
    index: IndexInfo
    files: dict[str, FileEntry] = Field(default_factory=dict, description="Every other file of the bundle.")
    probes: tuple[Probe, ...] = ()

    @property
    def encodable_items(self) -> int:
        """The last row that the encoder knows."""
        return self.items if self.encoder_items is None else self.encoder_items

    @model_validator(mode="after")
    def _dimensions_agree(self) -> Self:
        if self.encodable_items > self.items:
            raise ValueError("encoder_items is larger than items")
        if self.index.padded_dimension < self.dimension:
            raise ValueError("index.padded_dimension is smaller than dimension")
        if self.kernel and (1, sum(part.dimension for part in self.kernel.parts)) != (self.interests, self.dimension):
            raise ValueError("the parts of kernel do not make up one interest of dimension")
        if self.nearest_sessions and self.nearest_sessions.items > self.items:
            raise ValueError("nearest_sessions.items is larger than items")
        if self.kernel and self.users:
            raise ValueError(f"users is {self.users}, but a kernel encodes sessions alone")
        if self.content and any(len(probe.vector) != self.dimension for probe in self.content.probes):
            raise ValueError("a probe of content does not hold a vector of dimension")
        shape = (self.interests, self.dimension)
        for number, probe in enumerate(self.probes):
            if len(probe.interests) != shape[0] or any(len(interest) != shape[1] for interest in probe.interests):
                raise ValueError(f"probe {number} does not hold {shape[0]} interests of {shape[1]} numbers")
        return self


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read a bundle's manifest and compute its digest. Raises BundleError.

    If the folder's name is a digest, it must be the manifest's.
    """
    content = read_manifest_bytes(folder)
    digest = hashlib.sha256(content).hexdigest()
    if is_digest(folder.name) and folder.name != digest:
        raise BundleError(f"{MANIFEST}: its SHA-256 is {digest}, not the folder's name {folder.name}")
    try:
        return Manifest.model_validate_json(content), digest
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise BundleError(f"{MANIFEST}: {place}: {message_of(first)}") from error


def read_manifest_bytes(folder: Path) -> bytes:
    """Read the bytes of a manifest, unless they are too many. Raises BundleError."""
    path = folder / MANIFEST
    size = _regular_file_size(path)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path.name}: {size} bytes, more than the {MAX_MANIFEST_BYTES} allowed")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name}: {error.strerror} in {folder}") from error


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest into `folder`, with the size and SHA-256 of every file there; return it completed.

    Raises BundleError if the folder lacks a file of a bundle or contains any other file.
    """
    names = {entry.name for entry in os.scandir(folder)} - {MANIFEST}
    check_names(names, manifest)
    complete = manifest.model_copy(update={"files": {name: describe_file(folder / name) for name in sorted(names)}})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return complete


def check_files(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Raise BundleError unless `folder` contains exactly the manifest's files, regular, with equal sizes and hashes.

    Hashes are compared only if `hashes` is true.
    """
    check_names(set(manifest.files), manifest)
    present = {entry.name for entry in os.scandir(folder)} - {MANIFEST}
    for name in sorted(present - set(manifest.files)):
        raise BundleError(f"{name}: not listed in {MANIFEST}")
    for name, expected in manifest.files.items():
        if (size := _regular_file_size(folder / name)) != expected.size:
            raise BundleError(f"{name}: {size} bytes, {MANIFEST} says {expected.size}")
    for name, expected in manifest.files.items() if hashes else ():
        if describe_file(folder / name) != expected:
            raise BundleError(f"{name}: its SHA-256 is not the one in {MANIFEST}; the file was changed or damaged")


def describe_file(path: Path) -> FileEntry:
    """Return a file's size and hash. Raises BundleError if it is missing or not a regular file."""
    size = _regular_file_size(path)
    with path.open("rb") as file:
        return FileEntry(size=size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _regular_file_size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{path.name}: {error.strerror or error} in {path.parent}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path.name}: not a regular file")
    return status.st_size


def check_names(names: set[str], manifest: Manifest) -> None:
    """Raise BundleError unless these are names of files that such a bundle has."""
    required = REQUIRED_FILES
    if manifest.users:
        required |= USER_FILES
    if manifest.kernel:
        required |= KERNEL_FILES
    if manifest.nearest_sessions:
        required |= NEAREST_FILES
    if manifest.content:
        required |= CONTENT_FILES
    if COLUMNS in names:
        required |= {name for files in column_files(len(manifest.attributes)) for name in files}
    for name in sorted(required - names):
        raise BundleError(f"{name}: missing")
    for name in sorted(names - required - OPTIONAL_FILES):
        raise BundleError(f"{name}: not a file of a bundle")


def is_digest(name: str) -> bool:
    """Return whether a name is a SHA-256 digest, as that of a published bundle."""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")
