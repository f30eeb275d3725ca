"""Modules from outside the package: those that `--plugin` names, and what installed packages declare.

It imports neither torch nor NumPy, so that a command can name plugins before it chooses its number of threads.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from onward.training.errors import InputError, described

MODELS_GROUP = "onward.models"
"""The entry points of installed packages that are models."""
_named: list[str] = []


def use_plugins(plugins: Sequence[str]) -> None:
    """Let recipes name the models of these modules (`my_package.my_module`) or files (`my_model.py`).

    They are imported when the first recipe is parsed. Raises InputError if there is no such module or file.
    """
    for plugin in plugins:
        if plugin.endswith(".py"):
            _check_file(Path(plugin))
        elif not _exists(plugin):
            raise InputError(
                f"--plugin {plugin}: no such module; name a file, such as my_model.py, or install the module's package"
            )
    _named.extend(plugins)


def plugin_modules() -> dict[str, ModuleType]:
    """Import the modules named so far, by what `--plugin` says. Raises InputError if one cannot be imported."""
    return {plugin: _imported(plugin) for plugin in _named}


@cache
def installed_models() -> tuple[EntryPoint, ...]:
    """Return the models that installed packages declare, not yet imported; those of later installations are missed."""
    return tuple(entry_points(group=MODELS_GROUP))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"--plugin {path}: no such file; name a Python file with a table MODELS")
    if not path.stem.isidentifier():
        raise InputError(f"--plugin {path}: is no name of a module; rename the file with letters, digits and _ only")
    known = find_spec(path.stem)
    if known is not None and (known.origin is None or Path(known.origin).resolve() != path.resolve()):
        raise InputError(f"--plugin {path}: there is another module named {path.stem!r}; rename the file")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of its package; an empty or relative name
        return False


@cache
def _imported(plugin: str) -> ModuleType:
    try:
        return _imported_file(Path(plugin).resolve()) if plugin.endswith(".py") else import_module(plugin)
    except Exception as error:
        raise InputError(f"--plugin {plugin}: cannot be imported; mend this first: {described(error)}") from error


def _imported_file(path: Path) -> ModuleType:
    """Import a file as the module of its name; modules beside it can be imported too."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None  # noqa: S101  # a .py file has a loader
    assert spec.loader is not None  # noqa: S101
    sys.modules[path.stem] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
