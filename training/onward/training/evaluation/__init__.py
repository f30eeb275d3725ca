"""Evaluate bundles and baselines on held-out sessions."""
