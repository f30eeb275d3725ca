"""Faults of servers, processes, networks and callers, made to happen to a running service: `make faults`.

Every test runs the service as real processes under load, makes one thing go wrong, and records what the callers saw as
a row of docs/reliability.md. A test fails if its row breaks the promise that it states.
"""
