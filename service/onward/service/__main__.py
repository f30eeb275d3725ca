"""The command `onward-service`, also `python -m onward.service`."""

import os
import sys
from typing import NoReturn

from typer._click.exceptions import ClickException, NoArgsIsHelpError  # typer ships its own copy of click

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
EXTRA_MODULES = frozenset(
    {
        "fastapi",
        "fastapi_offline",
        "hiredis",
        "httptools",
        "prometheus_client",
        "pydantic_settings",
        "redis",
        "rich",
        "starlette",  # comes with fastapi
        "structlog",
        "uvicorn",
        "uvloop",
    }
)
"""The modules that the extra `service` installs and this package imports."""


def main() -> None:
    """Run a command. A usage error or a missing extra is one line on stderr and exit code 2.

    Numeric libraries read their thread settings when they are imported, so these are set first: one thread each.
    """
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    from onward.service.cli import cli

    try:
        sys.exit(cli(standalone_mode=False))
    except NoArgsIsHelpError:
        sys.exit(2)
    except ClickException as error:
        _refuse(f"{error.format_message()} (--help lists commands and options)")
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_MODULES:
            raise
        _refuse(f"{error.name} is not installed: pip install 'onward[service]'")


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
