"""From a trained encoder to a published bundle."""
