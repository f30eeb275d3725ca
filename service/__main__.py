"""`onward-service`, also `python -m service`."""

import os

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Run a command; the libraries' own threads are pinned before one of them is imported."""
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    from service.cli import cli

    cli()


if __name__ == "__main__":
    main()
