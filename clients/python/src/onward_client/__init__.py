"""Calls an Onward recommendation service: sync and async, typed, with retries, a deadline and batches of events."""

from onward_client.async_client import AsyncClient, AsyncEventQueue
from onward_client.client import Client, EventQueue
from onward_client.errors import NoAnswerError, OnwardError, ProblemError

__all__ = [
    "AsyncClient",
    "AsyncEventQueue",
    "Client",
    "EventQueue",
    "NoAnswerError",
    "OnwardError",
    "ProblemError",
]
