"""Tests run in parallel processes, so limit each to one thread; this must be set before the libraries are loaded."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[variable] = "1"

from hypothesis import settings  # noqa: E402  # it may load the libraries

settings.register_profile("untimed", deadline=None)  # a busy machine may make any example slow
settings.load_profile("untimed")
