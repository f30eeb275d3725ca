"""Tests run in parallel processes, so limit each to one thread; this must be set before the libraries are loaded."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[variable] = "1"

from hypothesis import settings  # noqa: E402  # it may load the libraries

# A busy machine may make any example slow, so none has a deadline.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("ONWARD_EXAMPLES", "repeatable"))
