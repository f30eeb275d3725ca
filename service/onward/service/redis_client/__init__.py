"""A client of Redis or Valkey: a single server, the master behind Sentinels, or a cluster."""

from onward.service.redis_client.address import SCHEMES, Address
from onward.service.redis_client.client import (
    UNDECODABLE,
    Connector,
    RedisClient,
    Script,
    connect,
    execute_or_raise,
    open_connector,
    store_call,
)
from onward.service.redis_client.connection import Argument, Command
from onward.service.redis_client.scan import FIRST_SCAN, SCAN_CURSOR, ScanPage
from onward.service.redis_client.store_check import CHECK_INTERVAL, StoreCheck, StoreFault

__all__ = [
    "CHECK_INTERVAL",
    "FIRST_SCAN",
    "SCAN_CURSOR",
    "SCHEMES",
    "UNDECODABLE",
    "Address",
    "Argument",
    "Command",
    "Connector",
    "RedisClient",
    "ScanPage",
    "Script",
    "StoreCheck",
    "StoreFault",
    "connect",
    "execute_or_raise",
    "open_connector",
    "store_call",
]
