"""URLs of stores are parsed, and invalid ones are refused with what to change."""

from datetime import timedelta
from urllib.parse import unquote

import pytest
from redis.asyncio.connection import SSLConnection

from onward.service.redis_client import Address, open_connector
from onward.service.redis_client.client import ServerConnector


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
        ("http://one", "must begin with one of redis://, rediss://, valkey://"),
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
        ("redis://one:port", "port from 1 to 65535"),
        ("redis://one:0", "port from 1 to 65535"),
        ("redis://one/first", "number of a database"),
        ("redis://one?word", "NAME=VALUE"),
        ("unix://run/redis.sock", "whole path"),
    ],
)
def test_an_invalid_url_is_refused_with_what_to_change_and_without_its_secrets(url: str, what_to_change: str) -> None:
    with pytest.raises(ValueError, match=what_to_change) as refused:
        Address.parse(url.replace("://", "://user:secret@"))
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("password", "what_to_change"),
    [
        ("hidden#part", "escape it as %23"),
        ("hidden?part", "[?] as %3F"),
        ("12?hidden", "[?] as %3F"),
        ("hidden/part", "/ as %2F"),
        ("12/34", "/ as %2F"),
        ("hid[den]part", "escape"),
        ("hidden\u2100part", "escape"),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@one:6379/0",
        "rediss://visitor:{}@one",
        "unix://visitor:{}@/run/socket?db=1",
        "redis+sentinel://:{}@one:1,two:2/shop",
        "valkey+cluster://:{}@one",
    ],
)
def test_a_password_that_is_not_escaped_is_refused_and_no_part_of_the_url_shown(
    url: str, password: str, what_to_change: str
) -> None:
    with pytest.raises(ValueError, match=what_to_change) as refused:
        Address.parse(url.format(password))
    assert refused.value.__cause__ is None
    for part in ("hid", "den", "part", "12", "34", "visitor", "one:", "@one", "shop"):
        assert part not in str(refused.value)


@pytest.mark.parametrize("password", ["p@ss", "a:b", "a%23b%2Fc", "50%off", "a,b"])
def test_other_characters_need_no_escape(password: str) -> None:
    assert Address.parse(f"redis://:{password}@one:1/2").options == {
        "password": unquote(password),
        "host": "one",
        "port": 1,
        "db": 2,
    }


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("valkey://ann:secret@one:1/2", "redis://ann:secret@one:1/2"),
        ("valkeys://one?ssl_ca_certs=/ca.pem", "rediss://one?ssl_ca_certs=/ca.pem"),
        ("valkey+sentinel://one,two/shop/1", "redis+sentinel://one,two/shop/1"),
        ("valkeys+sentinel://one/shop", "rediss+sentinel://one/shop"),
        ("valkey+cluster://one,two", "redis+cluster://one,two"),
        ("valkeys+cluster://one", "rediss+cluster://one"),
    ],
)
def test_urls_of_valkey_mean_what_those_of_redis_mean(url: str, same: str) -> None:
    assert Address.parse(url) == Address.parse(same)


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
    connector = open_connector(url)
    if isinstance(connector, ServerConnector):
        assert not connector._pool.make_connection().is_connected  # type: ignore[no-untyped-call]  # redis-py
    await connector.client(timedelta(seconds=1)).aclose()
    await connector.aclose()
