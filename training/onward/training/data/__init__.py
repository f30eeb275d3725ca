"""Data: event logs to sessions, a dataset on disk, and examples for training."""
