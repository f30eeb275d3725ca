"""Who sends a request: by key, or else by address."""

from starlette.types import Scope


def caller(scope: Scope) -> str:
    """Return what identifies the caller of a request whose key was checked: the key's digest, else the address."""
    return str(scope["state"].get("caller") or client_address(scope))


def client_address(scope: Scope) -> str:
    """Return the client's address, empty if it has none, as on a unix socket."""
    return str(scope["client"][0]) if scope.get("client") else ""
