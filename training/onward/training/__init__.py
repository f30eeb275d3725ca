"""Onward, offline: click logs in, a bundle out."""
