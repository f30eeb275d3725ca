"""Tenants: callers who share a deployment, its bundle and its catalog, and keep all else apart."""

import re

TENANT = r"[a-z0-9-]{1,32}"
"""Pattern of a tenant's name."""
MAX_TENANTS = 100
"""Tenants of a deployment: each costs every worker background work."""

PREFIX = "onward:"
"""How the keys of the deployment itself begin in the store, those of all versions."""

_TENANT = re.compile(TENANT)


def key_prefix(tenant: str | None) -> str:
    """Return how the keys of a tenant begin in the store; None stands for the deployment itself.

    No two tenants have a key in common: a name holds no colon, and no key of the deployment itself begins with
    `onward:tenant:`. Raises ValueError if it is not a tenant's name.
    """
    if tenant is None:
        return PREFIX
    if not _TENANT.fullmatch(tenant):
        raise ValueError("a tenant's name is 1 to 32 lower-case letters, digits and hyphens")
    return f"{PREFIX}tenant:{tenant}:"
