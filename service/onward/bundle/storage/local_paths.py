"""LocalPaths: commands whose paths are of this machine, and say so when an address is given for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from onward.bundle.storage.address import AddressError, local_path


class LocalPaths(TyperGroup):
    """A group of commands; an option or argument that a command takes as a Path refuses addresses.

    Otherwise `--out s3://shop/run` would make a folder of the name `s3:`. What may be an address is taken as text.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _refuse_addresses(self)


def _refuse_addresses(command: Any) -> None:
    for parameter in command.params:
        parameter.callback = _checking(parameter.callback)
    for member in getattr(command, "commands", {}).values():
        if not isinstance(member, LocalPaths):
            _refuse_addresses(member)


def _checking(callback: Callable[..., Any] | None) -> Callable[..., Any]:
    def check(context: Any, parameter: Any, value: Any) -> Any:
        for path in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(path, Path):
                try:
                    local_path(path)
                except AddressError as error:
                    raise typer.BadParameter(str(error), ctx=context, param=parameter) from error
        return value if callback is None else callback(context, parameter, value)

    return check
