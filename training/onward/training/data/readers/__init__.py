"""Readers of event logs and item files."""
