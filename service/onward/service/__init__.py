"""Onward's REST service: answers requests for recommendations from a bundle."""
