"""What a person who runs a command is told when something they gave is unusable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """One line that names the file, row or field and says what to do; a command prints it and exits with 2."""


@contextmanager
def bundle_faults(where: Path) -> Iterator[None]:
    """Tell what is wrong with a bundle below `where` as an InputError."""
    from onward.bundle import BundleError

    try:
        yield
    except BundleError as error:
        raise InputError(f"{where}: {error}") from error
