"""Measure a bundle on held-out sessions."""
