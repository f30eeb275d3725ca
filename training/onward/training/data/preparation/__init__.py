"""Prepare a dataset on disk: event logs to sessions, and sessions to training, validation and test."""
