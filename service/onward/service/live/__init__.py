"""State that changes while the service runs: the live bundle and the live catalog."""
