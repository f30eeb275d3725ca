"""Events to examples."""
