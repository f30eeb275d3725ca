"""Find a model by the name in a recipe: among the package's own, of plugins, and of installed packages."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from typing import NamedTuple

from pydantic import BaseModel

from onward.training.errors import InputError, described
from onward.training.models import MODELS, Model
from onward.training.models.encoder import SessionEncoder
from onward.training.plugins import installed_models, plugin_modules

TABLE = 'MODELS = {"NAME": Model(ENCODER, OPTIONS)}'


class _Source(NamedTuple):
    """Where a model comes from."""

    text: str
    load: Callable[[], object]


def model_names() -> list[str]:
    """Return the names of all models. Raises InputError if a plugin cannot be used."""
    return sorted({*MODELS, *(name for _, name in _plugin_models()), *(point.name for point in installed_models())})


def find_model(name: str) -> Model:
    """Return the model of this name, which must be one of `model_names`.

    Raises InputError if it cannot be imported, if it is not a `Model`, or if several have the name.
    """
    sources = [_Source("Onward itself", partial(MODELS.get, name))] if name in MODELS else []
    sources += [
        _Source(f"--plugin {plugin}", partial(lambda model: model, model))
        for (plugin, of_plugin), model in _plugin_models().items()
        if of_plugin == name
    ]
    sources += [_Source(_text(point), partial(_loaded, point)) for point in installed_models() if point.name == name]
    models = {source.text: _checked(source.load(), f"{source.text}: {name}") for source in sources}
    first, *others = models
    for other in others:
        if models[other] != models[first]:
            raise InputError(f"two models are named {name!r}, of {first} and of {other}; rename or leave out one")
    return models[first]


def _plugin_models() -> dict[tuple[str, str], object]:
    """Return what the tables of plugins hold, by plugin and name."""
    models: dict[tuple[str, str], object] = {}
    for plugin, module in plugin_modules().items():
        table = getattr(module, "MODELS", None)
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
            raise InputError(f"--plugin {plugin}: has no table of models; write {TABLE} at its end")
        models |= {(plugin, name): model for name, model in table.items()}
    return models


def _text(point: EntryPoint) -> str:
    package = "an installed package" if point.dist is None else f"the installed package {point.dist.name}"
    return f"{package} ({point.value})"


def _loaded(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise InputError(
            f"{_text(point)}: cannot be imported; mend or uninstall the package: {described(error)}"
        ) from error


def _checked(model: object, where: str) -> Model:
    """Return `model` if it has the form of a model. Raises InputError that begins with `where`."""
    if not isinstance(model, Model):
        raise InputError(f"{where}: is of type {type(model).__name__}; make it a Model(ENCODER, OPTIONS)")
    encoder, options = model
    if not callable(encoder) or (isinstance(encoder, type) and not issubclass(encoder, SessionEncoder)):
        raise InputError(f"{where}: its encoder {_name(encoder)} is none; derive its class from SessionEncoder")
    if missing := sorted(getattr(encoder, "__abstractmethods__", ())):
        raise InputError(f"{where}: {_name(encoder)} lacks the method {missing[0]}; write it")
    if not isinstance(options, type) or not issubclass(options, BaseModel):
        raise InputError(f"{where}: its options {_name(options)} are none; derive their class from pydantic.BaseModel")
    return model


def _name(value: object) -> str:
    return str(getattr(value, "__name__", value))
