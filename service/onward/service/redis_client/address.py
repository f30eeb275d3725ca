"""Address: what a URL says of a server, of the Sentinels that know it, or of a cluster."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
DEFAULT_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
OF_SENTINELS = "sentinel_"
"""How options begin that are for the Sentinels themselves, as in ?sentinel_password=..."""

Kind = Literal["server", "sentinel", "cluster"]

_SCHEME = re.compile(r"(redis|rediss|unix)(?:\+(sentinel|cluster))?")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")


class Address(NamedTuple):
    """Where calls go, and with which options redis-py connects."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    """Of the Sentinels, or of some nodes of the cluster; none for a single server."""
    service: str
    """The name that the Sentinels know the master by, else empty."""
    options: Mapping[str, Any]
    """Of a connection; a single server's with its place."""
    sentinel_options: Mapping[str, Any]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ValueError, which says what to change and does not repeat the URL, as it holds secrets."""
        scheme = _SCHEME.fullmatch(url.partition("://")[0])
        if scheme is None or not url.startswith(SCHEMES):
            raise ValueError(f"begins with one of {', '.join(SCHEMES)}")
        if scheme[2] is None:
            return cls("server", (), "", _options(url), {})
        kind: Kind = "sentinel" if scheme[2] == "sentinel" else "cluster"
        parts = urlsplit(url)
        user, _, names = parts.netloc.rpartition("@")
        hosts = tuple(_host(name, DEFAULT_PORTS[kind]) for name in names.split(","))
        service, database = _path(kind, parts.path)
        query = parse_qsl(parts.query)
        encrypted = scheme[1]

        def options(user: str, database: str, query: list[tuple[str, str]]) -> dict[str, Any]:
            read = _options(f"{encrypted}://{user + '@' if user else ''}host/{database}?{urlencode(query)}")
            del read["host"]
            return read

        of_sentinels = [(name.removeprefix(OF_SENTINELS), value) for name, value in query if _is_of_sentinels(name)]
        of_connections = [(name, value) for name, value in query if not _is_of_sentinels(name)]
        encryption = [(name, value) for name, value in of_connections if name.startswith("ssl_")]
        found = cls(
            kind, hosts, service, options(user, database, of_connections), options("", "", encryption + of_sentinels)
        )
        if kind == "cluster":
            _check(RedisCluster, {"host": "host", **found.options})
        return found


def _is_of_sentinels(name: str) -> bool:
    return name.startswith(OF_SENTINELS)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("max_connections", None)  # there is one
    _check(options.get("connection_class", Connection), options)
    return options


def _check(client: type[Any], options: Mapping[str, Any]) -> None:
    """Make one, which sends nothing yet."""
    try:
        client(**{name: value for name, value in options.items() if name != "connection_class"})
    except (TypeError, RedisError) as error:
        raise ValueError("has an option behind its ? that is unknown or unusable") from error


def _host(name: str, default_port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(name)
    if found is None or int(found[2] or 1) not in range(1, 65536):
        raise ValueError("names its hosts as in HOST:PORT,HOST:PORT")
    return found[1].strip("[]"), int(found[2] or default_port)


def _path(kind: Kind, path: str) -> tuple[str, str]:
    service, _, database = path.strip("/").partition("/")
    if kind == "cluster":
        if service not in ("", "0"):
            raise ValueError("names no database: a cluster has only one")
        return "", ""
    if not service or not (database or "0").isdecimal():
        raise ValueError("ends with the name of the master and a database, as in redis+sentinel://HOST:PORT/mymaster/0")
    return service, database or "0"
