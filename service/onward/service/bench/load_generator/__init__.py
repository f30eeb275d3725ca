"""The load generator: open and closed loops of requests against a server, in a process of its own."""
