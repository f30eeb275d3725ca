"""Which requests are answered: the load of the worker, the caller's key and the caller's rate."""
