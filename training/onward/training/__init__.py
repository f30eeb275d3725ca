"""Onward's training side: learns encoders from click logs and writes bundles."""
