"""Scans of the keys of a store, server by server: a cursor has the number of the server and the cursor of its scan."""

from typing import Any, NamedTuple

from redis.exceptions import RedisError

from onward.service.redis_client.connection import Command

FIRST_SCAN = "0-0"
SCAN_CURSOR = r"[0-9]{1,5}-[0-9]{1,20}"
"""Pattern of a cursor."""


class ScanPage(NamedTuple):
    """Some of the keys that match a pattern, and the cursor of the next ones; None if these were the last."""

    keys: list[bytes]
    cursor: str | None


def shard_of(cursor: str) -> int:
    """Return the number of the server that a cursor is of."""
    return int(cursor.partition("-")[0])


def scan_command(cursor: str, pattern: str, count: int) -> Command:
    """Return the command that scans the server of a cursor."""
    return ("SCAN", cursor.partition("-")[2], "MATCH", pattern, "COUNT", count)


def scan_page(reply: Any, *, shard: int, shards: int) -> ScanPage:
    """Return the page of the reply of one of several servers. Raises RedisError if the reply is a refusal."""
    if isinstance(reply, RedisError):
        raise reply
    next_cursor, keys = reply
    if int(next_cursor):
        return ScanPage(list(keys), f"{shard}-{int(next_cursor)}")
    return ScanPage(list(keys), f"{shard + 1}-0" if shard + 1 < shards else None)
