"""URLs of stores are parsed, and invalid ones are refused with what to change."""

from datetime import timedelta

import pytest
from redis.asyncio.connection import SSLConnection

from onward.service.redis_client import Address, connect
from onward.service.redis_client.client import ServerClient


def test_a_sentinel_url_names_hosts_master_database_and_both_passwords() -> None:
    url = "redis+sentinel://ann:s%40cret@one:1,two,[::1]:3/shop/2?client_name=onward&sentinel_password=other"
    address = Address.parse(url)
    assert address.hosts == (("one", 1), ("two", 26379), ("::1", 3))
    assert (address.kind, address.service) == ("sentinel", "shop")
    assert address.options == {"username": "ann", "password": "s@cret", "db": 2, "client_name": "onward"}
    assert address.sentinel_options == {"password": "other"}


def test_encryption_applies_to_sentinels_and_master() -> None:
    address = Address.parse("rediss+sentinel://one/shop?ssl_ca_certs=/ca.pem")
    for options in (address.options, address.sentinel_options):
        assert options["connection_class"] is SSLConnection
        assert options["ssl_ca_certs"] == "/ca.pem"


def test_a_cluster_url_names_some_of_the_nodes() -> None:
    address = Address.parse("redis+cluster://:secret@one,two:7000")
    assert (address.kind, address.hosts) == ("cluster", (("one", 6379), ("two", 7000)))
    assert address.options == {"password": "secret"}


@pytest.mark.parametrize(
    ("url", "what_to_change"),
    [
        ("http://one", "begins with one of redis://, rediss://, unix://, redis\\+sentinel://"),
        ("redis+sentinel://one:1", "ends with the name of the master"),
        ("redis+sentinel://one:1/shop/first", "ends with the name of the master"),
        ("redis+sentinel://one:port/shop", "names its hosts"),
        ("redis+sentinel:///shop", "names its hosts"),
        ("redis+cluster://one,,two", "names its hosts"),
        ("redis+cluster://one:70000", "names its hosts"),
        ("redis+cluster://one/1", "names no database"),
        ("redis+cluster://one?socket_type=1", "option"),
        ("redis+sentinel://one/shop?sentinel_word=x", "option"),
        ("redis://one?word=1", "option"),
        ("redis://one?socket_timeout=soon", "socket_timeout"),
        ("redis://one:port", "ort"),
    ],
)
def test_an_invalid_url_is_refused_with_what_to_change_and_without_its_secrets(url: str, what_to_change: str) -> None:
    with pytest.raises(ValueError, match=what_to_change) as refused:
        Address.parse(url.replace("://", "://user:secret@"))
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://one?max_connections=5&protocol=3&client_name=onward",
        "rediss://ann:secret@one:6380/1?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
        "rediss+sentinel://ann:secret@one/shop/1?ssl_ca_certs=/ca.pem&sentinel_username=x&sentinel_password=y",
        "rediss+cluster://ann:secret@one?ssl_check_hostname=no",
    ],
)
async def test_connections_accept_the_options_of_a_url(url: str) -> None:
    client = connect(url, timedelta(seconds=1))
    if isinstance(client, ServerClient):
        assert not client._connection._new_connection().is_connected
    await client.aclose()
