"""Key: what is known of a caller's key."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, field_serializer

from onward.service.tenants import TENANT

Scope = Literal["recommend", "events", "catalog", "admin", "metrics"]
"""What a key may be used for; every endpoint needs one of them."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

_PERIOD = re.compile(r"([1-9][0-9]{0,4})([dh])")


class Key(BaseModel):
    """What is known of a caller's key, but not the key itself."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal digits."""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    tenant: Annotated[str, StringConstraints(pattern=f"^{TENANT}$")] | None = None
    """Whose sessions, answers, scenarios and counters the key works on; None for those of the deployment itself."""
    expires: AwareDatetime | None = None

    @field_serializer("scopes")
    def _in_order(self, scopes: frozenset[Scope]) -> list[Scope]:
        return [scope for scope in SCOPES if scope in scopes]

    def is_expired(self, now: datetime) -> bool:
        """Return whether the key is no longer valid."""
        return self.expires is not None and self.expires <= now

    @property
    def line(self) -> str:
        """The key as a line of a file of keys."""
        return self.model_dump_json(exclude_none=True)


def tenants_of(keys: Iterable[Key]) -> set[str]:
    """Return the tenants of keys, without the deployment itself."""
    return {key.tenant for key in keys if key.tenant is not None}


def parse_expiry(text: str, now: datetime) -> datetime:
    """Parse when a key expires: `90d`, `12h`, or an ISO 8601 date or time, by default of UTC. Raises ValueError."""
    if match := _PERIOD.fullmatch(text):
        return (now + timedelta(**{"days" if match[2] == "d" else "hours": int(match[1])})).replace(microsecond=0)
    try:
        expires = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("write days (90d), hours (12h), or a date (2027-03-01)") from error
    return expires if expires.tzinfo is not None else expires.replace(tzinfo=UTC)
