"""Onward, online: a bundle in, recommendations out."""
