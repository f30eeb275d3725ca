"""From a dataset to the best bundle for it: candidates, floor, choice on validation, export and gate."""
