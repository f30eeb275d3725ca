"""From events to sessions, splits and a dataset on disk."""
