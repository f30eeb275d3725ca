"""Losses as pure functions, the objectives of recipes that use them, negative samplers and augmentations."""
