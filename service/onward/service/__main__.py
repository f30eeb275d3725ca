"""`onward-service`, also `python -m service`."""

import os
import sys

from typer._click.exceptions import ClickException, NoArgsIsHelpError  # typer carries a click of its own

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Run a command; the libraries' own threads are pinned before one of them is imported.

    A fault of its usage is one line on stderr and exit code 2.
    """
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    from onward.service.cli import cli

    try:
        sys.exit(cli(standalone_mode=False))
    except NoArgsIsHelpError:
        sys.exit(2)
    except ClickException as error:
        sys.stderr.write(f"error: {error.format_message()} (--help lists what there is)\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
