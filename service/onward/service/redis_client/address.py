"""Address: the URL of a server, of Sentinels or of a cluster, parsed and checked."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

PRODUCTS = ("redis", "rediss", "valkey", "valkeys")
"""First parts of schemes; those that end in another s than redis and valkey encrypt the connection."""
SCHEMES = (
    *(f"{product}://" for product in PRODUCTS),
    "unix://",
    *(f"{product}+{kind}://" for kind in ("sentinel", "cluster") for product in PRODUCTS),
)
ESCAPES = "in a user name or password, escape # as %23, ? as %3F, / as %2F, @ as %40, : as %3A, [ as %5B and % as %25"
DEFAULT_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
SENTINEL_OPTION_PREFIX = "sentinel_"
"""Prefix of query options for the connections to the Sentinels themselves, as in ?sentinel_password=..."""

Kind = Literal["server", "sentinel", "cluster"]

_SCHEME = re.compile(r"(redis|valkey|unix)(s?)(?:\+(sentinel|cluster))?")
_DATABASE = re.compile(r"/?[0-9]*")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")


class Address(NamedTuple):
    """Where to connect, and with which options of redis-py."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    """Host and port of the Sentinels, or of some nodes of the cluster; empty for a single server."""
    service: str
    """The name under which the Sentinels monitor the master; empty for the other kinds."""
    options: Mapping[str, Any]
    """Connection options; for a single server they include its host and port, or its socket path."""
    sentinel_options: Mapping[str, Any]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL. Raises ValueError, which says what to change and omits the URL, as it may hold secrets."""
        scheme = _SCHEME.fullmatch(url.partition("://")[0])
        if scheme is None or not url.startswith(SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(SCHEMES)}")
        base_scheme = "unix" if scheme[1] == "unix" else f"redis{scheme[2]}"
        parts = _split(url)
        if scheme[3] is None:
            return cls("server", (), "", _server_options(f"{base_scheme}://{url.partition('://')[2]}", parts), {})
        kind: Kind = "sentinel" if scheme[3] == "sentinel" else "cluster"
        user, _, host_list = parts.netloc.rpartition("@")
        hosts = tuple(_host(host, DEFAULT_PORTS[kind]) for host in host_list.split(","))
        service, database = _path(kind, parts.path)
        query = parse_qsl(parts.query)

        def options(user: str, database: str, query: list[tuple[str, str]]) -> dict[str, Any]:
            """Let redis-py parse the options, as those of one server with a placeholder for its host."""
            parsed = _options(f"{base_scheme}://{user + '@' if user else ''}host/{database}?{urlencode(query)}")
            del parsed["host"]
            return parsed

        sentinel_query = [
            (name.removeprefix(SENTINEL_OPTION_PREFIX), value) for name, value in query if _is_for_sentinels(name)
        ]
        connection_query = [(name, value) for name, value in query if not _is_for_sentinels(name)]
        tls_query = [(name, value) for name, value in connection_query if name.startswith("ssl_")]
        address = cls(
            kind, hosts, service, options(user, database, connection_query), options("", "", tls_query + sentinel_query)
        )
        if kind == "cluster":
            _check(RedisCluster, {"host": "host", **address.options})
        return address


def _is_for_sentinels(name: str) -> bool:
    return name.startswith(SENTINEL_OPTION_PREFIX)


def _split(url: str) -> SplitResult:
    """Split a URL whose user name and password are escaped. Raises ValueError without any part of the URL."""
    if "#" in url:
        raise ValueError("has a # in it: escape it as %23")
    try:
        parts = urlsplit(url)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"cannot be read: an option after the ? is written NAME=VALUE; {ESCAPES}") from None
    if "@" in parts.path and parts.scheme != "unix":
        raise ValueError(f"has an @ after a /; {ESCAPES}")
    return parts


def _server_options(url: str, parts: SplitResult) -> dict[str, Any]:
    """Return the options for a single server. Raises ValueError."""
    if parts.scheme == "unix":
        if not parts.path or not (parts.netloc == "" or parts.netloc.endswith("@")):
            raise ValueError(f"names a socket by its whole path, as in unix:///run/redis.sock; {ESCAPES}")
    elif not _DATABASE.fullmatch(parts.path):
        raise ValueError("ends with the number of a database, as in redis://HOST:PORT/0")
    elif not _has_usable_port(parts):
        raise ValueError(f"names a port from 1 to 65535, if any; {ESCAPES}")
    return _options(url)


def _has_usable_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # which would show the text
        return False


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("max_connections", None)  # all callers share one connection
    _check(options.get("connection_class", Connection), options)
    return options


def _check(client: type[Any], options: Mapping[str, Any]) -> None:
    """Construct a client, which sends nothing yet. Raises ValueError if it does not accept the options."""
    try:
        client(**{name: value for name, value in options.items() if name != "connection_class"})
    except (TypeError, RedisError) as error:
        raise ValueError("has an unknown or unusable option after its ?") from error


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or 1) not in range(1, 65536):
        raise ValueError("names its hosts as in HOST:PORT,HOST:PORT")
    return match[1].strip("[]"), int(match[2] or default_port)


def _path(kind: Kind, path: str) -> tuple[str, str]:
    service, _, database = path.strip("/").partition("/")
    if kind == "cluster":
        if service not in ("", "0"):
            raise ValueError("names no database: a cluster has only one")
        return "", ""
    if not service or not (database or "0").isdecimal():
        raise ValueError("ends with the name of the master and a database, as in redis+sentinel://HOST:PORT/mymaster/0")
    return service, database or "0"
