"""Calls of Redis or Valkey: of one server, of the master that Sentinels name, of a cluster."""

from onward.service.redis_client.address import SCHEMES, Address
from onward.service.redis_client.calls import RedisCalls, Script, ask, connect, redis_call
from onward.service.redis_client.wire import Argument, Command

__all__ = ["SCHEMES", "Address", "Argument", "Command", "RedisCalls", "Script", "ask", "connect", "redis_call"]
