"""The search for a better recipe: what may vary, and the study that tries it."""
