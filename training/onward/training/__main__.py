"""`onward-training`, also `python -m training`."""

import sys

from typer._click.exceptions import ClickException, NoArgsIsHelpError  # typer carries a click of its own

from onward.training.cli import cli
from onward.training.errors import InputError


def main() -> None:
    """Run a command; a fault of its input or of its usage is one line on stderr and exit code 2."""
    try:
        sys.exit(cli(standalone_mode=False))
    except NoArgsIsHelpError:
        sys.exit(2)
    except ClickException as error:
        _refuse(f"{error.format_message()} (--help lists what there is)")
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _refuse(reason: str) -> None:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
