"""The programs of the peers: each runs in a separate process, some in a separate virtual environment."""
