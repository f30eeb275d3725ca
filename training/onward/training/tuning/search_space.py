"""The search space of a study: the keys of a recipe that vary, and the values they may take."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self, TypeAlias

import tomlkit
from optuna.distributions import CategoricalChoiceType, CategoricalDistribution, FloatDistribution, IntDistribution
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Item

from onward.training.errors import InputError
from onward.training.recipe import Recipe

Variation: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution
"""The values that a key may take: numbers of a range, or choices, each as its TOML text."""
Parameter: TypeAlias = CategoricalChoiceType
"""A value as a study stores it: a number of a range, or the TOML text of a choice."""
RANGE = re.compile(r"(?P<log>log:)?(?P<low>[^,]+)\.\.(?P<high>[^,]+)")
FIXED = {
    "training.refit": "a trial never refits",
    "training.validation_metric": "it judges the trials, so all need the same one",
}


@dataclass(frozen=True)
class SearchSpace:
    """A complete recipe, and the variations of its values."""

    recipe: Recipe
    variations: dict[str, Variation]
    """Variations by dotted key of the recipe."""

    @classmethod
    def of(cls, recipe: Recipe, specs: Mapping[str, str]) -> Self:
        """Parse the specs by dotted key. Raises InputError that names the key and what is allowed."""
        if not specs:
            raise InputError("nothing to vary; add --vary KEY=SPEC or --space FILE")
        table = tomllib.loads(recipe.text)
        space = cls(recipe, {key: _variation(key, spec, _value(table, key)) for key, spec in specs.items()})
        space._check_extremes(specs)
        return space

    def text(self, parameters: Mapping[str, Parameter], **training_values: Any) -> str:
        """Return the recipe's TOML with these parameters and these values of the `training` table."""
        values = {key: _value_of(parameter) for key, parameter in parameters.items()}
        return with_values(
            self.recipe.text, {**values, **{f"training.{name}": value for name, value in training_values.items()}}
        )

    def parameters_of(self, text: str) -> dict[str, Parameter] | None:
        """Return the parameters that equal the values of a recipe's text; None if one of them is outside the space."""
        table = tomllib.loads(text)
        parameters = {key: _parameter(variation, _value(table, key)) for key, variation in self.variations.items()}
        inside: dict[str, Parameter] = {
            key: parameter for key, parameter in parameters.items() if parameter is not None
        }
        return inside if len(inside) == len(parameters) else None

    def _check_extremes(self, specs: Mapping[str, str]) -> None:
        for key, variation in self.variations.items():
            for extreme in _extremes(variation):
                Recipe.parse(self.text({key: extreme}), f"--vary {key}={specs[key]}")


def recipe_value(parameter: Parameter) -> Any:
    """Return a parameter's value in a recipe, as a plain JSON value."""
    value = _value_of(parameter)
    return value.unwrap() if isinstance(value, Item) else value


def read_specs(options: Sequence[str], file: Path | None) -> dict[str, str]:
    """Read specs by dotted key from options KEY=SPEC and from a TOML file; an option overrides the file.

    Raises InputError that names the option, or the file and the key.
    """
    specs = {} if file is None else _read_file(file)
    for option in options:
        key, equals, spec = option.partition("=")
        if not (key and equals and spec):
            raise InputError(f"--vary {option}: write KEY=SPEC, such as training.learning_rate=log:1e-4..1e-2")
        specs[key] = spec
    return specs


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return TOML text with other values at these existing dotted keys; comments are kept."""
    document = tomlkit.parse(text)
    for key, value in values.items():
        *tables, name = key.split(".")
        table: Any = document
        for part in tables:
            table = table[part]
        table[name] = value
    return tomlkit.dumps(document)


def _read_file(file: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not TOML: {error}") from error
    specs = dict(_leaves(table))
    for key, spec in specs.items():
        if not isinstance(spec, str):
            raise InputError(f'{file}: {key}: write a spec in quotes, such as "1..8", "log:1e-4..1e-2" or "a,b,c"')
    return specs


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _value(table: Mapping[str, Any], key: str) -> Any:
    """Return the recipe's value at a dotted key, possibly an inline table. Raises InputError if there is none."""
    if key in FIXED:
        raise InputError(f"{key}: does not vary: {FIXED[key]}")
    value: Any = table
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            known = [name for name, _ in _leaves(table) if name not in FIXED]
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(known)}"
            raise InputError(f"{key}: no key of the recipe; {hint}")
        value = value[part]
    return value


def _value_of(parameter: Parameter) -> Any:
    return tomlkit.value(parameter) if isinstance(parameter, str) else parameter


def _extremes(variation: Variation) -> Sequence[Parameter]:
    """Return values that must be valid in a recipe; then all others are valid too."""
    if isinstance(variation, CategoricalDistribution):
        return variation.choices
    return variation.low, variation.high


def _parameter(variation: Variation, value: Any) -> Parameter | None:
    """Return the parameter for a value of the recipe; None if it is not among the values of the variation."""
    if isinstance(variation, CategoricalDistribution):
        return next((str(text) for text in variation.choices if recipe_value(str(text)) == value), None)
    return value if variation.low <= value <= variation.high else None


def _variation(key: str, spec: str, value: Any) -> Variation:
    match = RANGE.fullmatch(spec.strip())
    if match is None:
        return CategoricalDistribution(_choice_texts(key, spec))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}={spec}: the recipe has no number here; write choices, as a,b,c")
    low, high, log = _number(key, spec, match["low"]), _number(key, spec, match["high"]), match["log"] is not None
    if not low < high or not isfinite(high - low) or (log and low <= 0):
        raise InputError(f"{key}={spec}: write two finite bounds, the lower one first, above 0 with log:")
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _number(key: str, spec: str, text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"{key}={spec}: {text!r} is not a number; write bounds such as 1..8 or log:1e-4..1e-2")


def _choice_texts(key: str, spec: str) -> tuple[str, ...]:
    """Return each choice as TOML text; words that are not valid TOML become strings."""
    try:
        items = list(tomlkit.parse(f"values = [{spec}]").unwrap()["values"])
    except TOMLKitError:
        items = [word.strip() for word in spec.split(",")]
    texts = tuple(dict.fromkeys(_toml(item) for item in items if item != ""))
    if not texts:
        raise InputError(f"{key}={spec}: write choices, as a,b,c")
    return texts


def _toml(value: Any) -> str:
    item: Item = tomlkit.inline_table() if isinstance(value, dict) else tomlkit.item(value)
    if isinstance(item, InlineTable):
        item.update(value)
    return item.as_string()
