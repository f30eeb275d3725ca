"""Recommendations: from a query to ranked items, without HTTP."""
