"""The command `onward-training`, also `python -m onward.training`."""

import os
import sys
from typing import NoReturn

from typer._click.exceptions import ClickException, NoArgsIsHelpError, NoSuchOption  # typer ships its own copy of click

from onward.training.cli import cli
from onward.training.errors import InputError, RankError
from onward.training.termination import ended_by_signals

EXTRA_MODULES = frozenset(
    {"matplotlib", "narwhals", "onnx", "onnx_ir", "onnxscript", "optuna", "polars", "redis", "rich", "tomlkit", "torch"}
)
"""The modules that the extra `training` installs."""
HELP = "(--help lists commands and options)"


def main() -> None:
    """Run a command. An input error, a usage error or a missing extra is one line on stderr and exit code 2.

    SIGTERM ends it as Ctrl-C does: `train` and `tune` after the current step; the others remove what is unfinished.
    """
    try:
        with ended_by_signals():
            sys.exit(cli(standalone_mode=False))
    except NoArgsIsHelpError:
        sys.exit(2)
    except NoSuchOption as error:
        place = "--plugin stands before the command: onward-training --plugin my_model.py train ..."
        _refuse(place if error.option_name == "--plugin" else f"{error.format_message()} {HELP}")
    except ClickException as error:
        _refuse(f"{error.format_message()} {HELP}")
    except RankError as error:
        _refuse(str(error), of_this_rank=True)
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_MODULES:
            raise
        _refuse(f"{error.name} is not installed: pip install 'onward[training]'")


def _refuse(reason: str, *, of_this_rank: bool = False) -> NoReturn:
    """Print an error and exit; of the ranks of a machine only the first says what all of them find."""
    if of_this_rank or os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"error: {reason}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
