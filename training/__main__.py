"""`onward-training`, also `python -m training`."""

import sys

from training.cli import cli
from training.errors import InputError


def main() -> None:
    """Run a command; a fault of its input is one line on stderr and exit code 2."""
    try:
        cli()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
