"""A row of the report: what went wrong, what was promised, and what the callers of the service saw."""

from dataclasses import dataclass

CHAPTERS = ("Callers", "Load", "Processes", "Stores", "Bundles")


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one fault; None where a figure does not apply."""

    chapter: str
    fault: str
    promise: str
    requests: int | None = None
    degraded: int | None = None
    """Answers of status 200 that were made without a part."""
    refused: int | None = None
    """Answers of status 503 or 429."""
    failed: int | None = None
    """Any other answer than 200, 503 and 429, and connections that were lost."""
    lost: int | None = None
    """Events that were acknowledged and are not in their session afterwards."""
    crossed: int | None = None
    """Answers that belong to another request."""
    p99_ms: float | None = None
    worst_ms: float | None = None
    recovered_s: float | None = None
    """Time from the end of the fault to the last answer that was degraded, refused or failed."""
    observed: str = ""
    """Further figures."""
    kept: bool = True
    """Whether the promise was kept, its times apart."""
    in_time: bool = True
    """Whether its times were kept. That alone does not fail a test: a busy machine may be the reason."""
