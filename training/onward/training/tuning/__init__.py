"""Hyper-parameter search: the search space and the study."""
