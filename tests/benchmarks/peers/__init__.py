"""Comparison of the service with servers that a user could write or choose instead, over the same bundle."""
