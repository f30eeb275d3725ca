"""Calls of Redis or Valkey: of one server, of the master that Sentinels name, of a cluster."""

from service.redis_calls.address import SCHEMES, Address
from service.redis_calls.calls import RedisCalls, Script, ask, connect, redis_call
from service.redis_calls.wire import Argument, Command

__all__ = ["SCHEMES", "Address", "Argument", "Command", "RedisCalls", "Script", "ask", "connect", "redis_call"]
