"""From a session's item rows to its interests."""
