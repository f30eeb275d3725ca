"""Errors in a user's input, which a command prints in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """An error in a user's input: one line that names the file, row or field and says what to do.

    A command prints it and exits with code 2.
    """


class Diverged(InputError):
    """The loss or the weights of a fit are no longer finite numbers."""


@contextmanager
def bundle_faults(where: Path) -> Iterator[None]:
    """Raise a BundleError of the block as an InputError that names the folder `where`."""
    from onward.bundle import BundleError

    try:
        yield
    except BundleError as error:
        raise InputError(f"{where}: {error}") from error
