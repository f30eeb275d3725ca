"""KeyCheck: require a known key. Keys are compared by their digests."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256

from starlette.types import Scope

from onward.service.errors import ExpiredKey, MissingKey, NotReady, ServiceError, TooManyWrongKeys, WrongKey
from onward.service.http.admission.caller import client_address
from onward.service.http.admission.token_bucket import TokenBuckets
from onward.service.http.scopes import KEY
from onward.service.keys import KeyRing
from onward.service.rate_limit import RateLimit

WRONG_KEYS = RateLimit(600, "minute")
"""How many requests without a valid key are answered for each client address: 600 at once, then 10 a second."""


class KeyCheck:
    """Require a key that is known and has not expired; requests with none are limited by client address.

    A key is looked up by its SHA-256 digest in a dict. How long that takes reveals nothing that helps to guess a key:
    whoever could choose a key by its digest would have to invert SHA-256.
    """

    def __init__(self, keys: KeyRing, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._keys = keys
        self._clock = clock
        self._wrong = TokenBuckets(WRONG_KEYS)

    def refusal(self, scope: Scope) -> ServiceError | None:
        """Return why the request is refused, None if it is admitted.

        The state of an admitted request has the key, the caller and the parts of the tenant.
        """
        if not (secret := _secret(scope)):
            challenge = {"WWW-Authenticate": 'Bearer realm="onward"'}
            return self._limited(scope) or MissingKey("Send a key as `Authorization: Bearer KEY`.", challenge)
        key = self._keys.by_digest.get(sha256(secret).digest())
        if key is None:
            return self._limited(scope) or WrongKey("This key is not one of the deployment's.")
        if key.expires is not None and key.is_expired(self._clock()):
            return self._limited(scope) or ExpiredKey("This key has expired.")
        state = scope["state"]
        if key.tenant is not None:
            if (parts := state["tenants"].get(key.tenant)) is None:
                return NotReady("What this key's tenant keeps is not opened yet.")
            state |= parts
        state[KEY], state["caller"] = key, key.digest
        return None

    def _limited(self, scope: Scope) -> ServiceError | None:
        if wait_s := self._wrong.spend(client_address(scope)):
            return TooManyWrongKeys("Too many requests without a valid key.", {"Retry-After": str(math.ceil(wait_s))})
        return None


def _secret(scope: Scope) -> bytes:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if key := headers.get(b"x-api-key"):
        return key
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
