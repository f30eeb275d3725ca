"""Jobs that the service, a schedule or a person puts into the store, and the worker that does them."""
