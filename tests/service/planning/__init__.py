"""Tests of onward.service.planning."""
