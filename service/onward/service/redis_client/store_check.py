"""StoreCheck: tell apart a store that is down from one that refuses the service because of how both are set up."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import NamedTuple

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
)

from onward.service import telemetry
from onward.service.redis_client.client import RedisClient, Script

CHECK_INTERVAL = timedelta(seconds=5)
KEYS = "~onward:*"
PROBE_KEY = "onward:{rights}:probe"
PASSWORD_REFUSED = "The server refuses the user name or password of REDIS_URL."  # noqa: S105
NO_RIGHTS = f"The account of REDIS_URL lacks rights that docs/deployment.md lists: {KEYS} and the commands."
TEXTS = {
    "DB index is out of range": "The server has no database of the number in REDIS_URL.",
    "invalid DB index": "The server has no database of the number in REDIS_URL.",
    "SELECT is not allowed in cluster mode": "A node of a cluster has no database but 0: use redis+cluster://.",
    "No such master with that name": "The Sentinels know no master of the name in REDIS_URL.",
    "Cluster mode is not enabled": "The servers are no cluster: use redis://.",
    "user executing the script can't run this command": NO_RIGHTS,
}
"""What a text in the error of a server means."""


class StoreFault(NamedTuple):
    """Why the store refuses the service, and what to do; and the server's own words, for the log alone."""

    reason: str
    detail: str

    @classmethod
    def of(cls, error: BaseException) -> "StoreFault | None":
        """Return the fault that an error shows; None if it is, or may be, an outage."""
        for cause in _causes(error):
            reason = _reason(cause)
            if reason is not None:
                return cls(reason, str(cause))
        return None


class StoreCheck:
    """Checks again and again whether the store lets the service in, and all its commands; reports what changes."""

    def __init__(self, redis: RedisClient) -> None:
        """Take a client, which is not closed with this."""
        text = files("onward.service.redis_client").joinpath("rights.lua").read_text(encoding="utf-8")
        self._rights = Script(redis, text)
        self.fault: StoreFault | None = None
        """What was found last; an outage does not change it."""

    async def run(self) -> None:
        """Check once."""
        try:
            refusals: list[bytes] = await self._rights([PROBE_KEY], [])
            fault = _lacking([refusal.decode(errors="replace") for refusal in refusals])
        except Exception as error:  # also a reply that is not one to the script
            fault = StoreFault.of(error) or self.fault
        if fault != self.fault:
            self.fault = fault
            telemetry.store_misconfigured(
                None if fault is None else fault.reason, "" if fault is None else fault.detail
            )


def _lacking(refusals: list[str]) -> StoreFault | None:
    if not refusals:
        return None
    commands = " ".join(f"+{refusal.partition(' ')[0].lower()}" for refusal in refusals)
    return StoreFault(f"The account of REDIS_URL may not run these commands on {KEYS}: {commands}", refusals[0])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str | None:
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError | AuthorizationError):
        return PASSWORD_REFUSED
    if isinstance(error, NoPermissionError):
        return NO_RIGHTS
    if isinstance(error, MovedError):
        return "The server is a node of a cluster: use redis+cluster://."
    if isinstance(error, ssl.SSLCertVerificationError):
        return "The certificate of the server is not trusted: see ssl_ca_certs in docs/deployment.md."
    if isinstance(error, RedisError | RedisClusterException):
        return next((reason for text, reason in TEXTS.items() if text in str(error)), None)
    return None
