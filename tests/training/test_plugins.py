"""Recipes find models of plugins and of installed packages by name, and errors say in one line what to do."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from onward.training import plugins
from onward.training.errors import InputError
from onward.training.models import MODELS
from onward.training.models.lookup import find_model, model_names
from onward.training.plugins import use_plugins
from onward.training.recipe import RECIPES, Recipe
from tests.training.corpora import corpus

OWN = """
from onward.training.models import Model
from onward.training.models.srgnn import SRGNN, SRGNNOptions

class Own(SRGNN): ...

MODEL = Model(Own, SRGNNOptions)
MODELS = {"own": MODEL}
"""
RECIPE = (RECIPES / "srgnn.toml").read_text().replace('model = "srgnn"', 'model = "own"')


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget plugins and imported files after each test."""
    monkeypatch.setattr(plugins, "_named", [])
    before, path = set(sys.modules), list(sys.path)
    plugins._imported.cache_clear()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("own"):
            del sys.modules[name]


def plugin(folder: Path, text: str = OWN, name: str = "own_model.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def add_to_path(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def installed(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Let these entry points be those of installed packages."""
    found = tuple(EntryPoint(name, value, plugins.MODELS_GROUP) for name, value in points)
    monkeypatch.setattr("onward.training.plugins.entry_points", lambda group: found)
    plugins.installed_models.cache_clear()
    monkeypatch.setattr("onward.training.models.lookup.installed_models", lambda: found)
    assert plugins.installed_models() == found
    plugins.installed_models.cache_clear()


def refusal() -> str:
    with pytest.raises(InputError) as error:
        Recipe.parse(RECIPE, "own.toml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_recipe_names_a_model_of_a_file(tmp_path: Path) -> None:
    plugin(tmp_path, "NAME = 'own'", "own_names.py")
    use_plugins([plugin(tmp_path, OWN.replace('"own"', "NAME").replace("\n", "\nfrom own_names import NAME\n", 1))])
    assert type(Recipe.parse(RECIPE, "own.toml").build(corpus(5))).__name__ == "Own"
    assert "own" in model_names()


def test_a_recipe_names_a_model_of_a_module(tmp_path: Path) -> None:
    plugin(tmp_path)
    add_to_path(tmp_path)
    use_plugins(["own_model", "own_model"])
    assert Recipe.parse(RECIPE, "own.toml").model == "own"


def test_a_recipe_names_a_model_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path)
    add_to_path(tmp_path)
    installed(monkeypatch, ("own", "own_model:MODEL"), ("broken", "own_missing:MODEL"))
    assert Recipe.parse(RECIPE, "own.toml").model == "own"
    use_plugins(["own_model"])
    assert find_model("own").options is MODELS["srgnn"].options


def test_a_package_declares_models_by_its_metadata(tmp_path: Path) -> None:
    plugin(tmp_path)
    metadata = tmp_path / "own_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[onward.models]\nown = own_model:MODEL\nsrgnn = own_model:MODEL\n")
    add_to_path(tmp_path)
    plugins.installed_models.cache_clear()
    try:
        assert Recipe.parse(RECIPE, "own.toml").model == "own"
        with pytest.raises(InputError, match=r"of the installed package own-package \(own_model:MODEL\); rename"):
            find_model("srgnn")
    finally:
        plugins.installed_models.cache_clear()


def test_a_name_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_plugins([plugin(tmp_path), plugin(tmp_path, name="own_other.py")])
    first, second = tmp_path / "own_model.py", tmp_path / "own_other.py"
    assert refusal() == (
        f"two models are named 'own', of --plugin {first} and of --plugin {second}; rename or leave out one"
    )
    add_to_path(tmp_path)
    installed(monkeypatch, ("srgnn", "own_model:MODEL"))
    with pytest.raises(InputError, match="'srgnn', of Onward itself and of an installed package \\(own_model:MODEL\\)"):
        Recipe.load(Path("srgnn"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = 1\ny = x / 0\n",
            "cannot be imported; mend this first: ZeroDivisionError: division by zero (own_model.py, line 2)",
        ),
        ("x = = 1\n", "cannot be imported; mend this first: SyntaxError: invalid syntax (own_model.py, line 1)"),
        ("import own_missing\n", "ModuleNotFoundError: No module named 'own_missing' (own_model.py, line 1)"),
        ("MODEL = 3\n", 'has no table of models; write MODELS = {"NAME": Model(ENCODER, OPTIONS)} at its end'),
        ("MODELS = {'own': 3}\n", "own: is of type int; make it a Model(ENCODER, OPTIONS)"),
        (OWN.replace("Own, ", "dict, "), "its encoder dict is none; derive its class from SessionEncoder"),
        (
            OWN.replace("SRGNNOptions)", "dict)"),
            "its options dict are none; derive their class from pydantic.BaseModel",
        ),
        (
            OWN.replace("Own(SRGNN)", "Own(SessionEncoder)")
            + "from onward.training.models.encoder import SessionEncoder",
            "NameError: name 'SessionEncoder' is not defined",
        ),
        (
            "from onward.training.models.encoder import SessionEncoder\n" + OWN.replace("(SRGNN)", "(SessionEncoder)"),
            "Own lacks the method forward; write it",
        ),
    ],
)
def test_an_unusable_plugin_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = plugin(tmp_path, text)
    use_plugins([path])
    refused = refusal()
    assert refused.startswith(f"--plugin {path}: ")
    assert message in refused


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            "own_missing:MODEL",
            "cannot be imported; mend or uninstall the package: ModuleNotFoundError: No module named",
        ),
        ("own_model:MODELL", "cannot be imported; mend or uninstall the package: AttributeError: module 'own_model'"),
        ("own_model:Own", "own: is of type ABCMeta; make it a Model(ENCODER, OPTIONS)"),
    ],
)
def test_an_unusable_entry_point_is_refused_in_one_line(
    point: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path)
    add_to_path(tmp_path)
    installed(monkeypatch, ("own", point))
    refused = refusal()
    assert refused.startswith(f"an installed package ({point}): ")
    assert message in refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py", "no such file; name a Python file with a table MODELS"),
        ("own-model.py", "is no name of a module; rename the file with letters, digits and _ only"),
        ("statistics.py", "there is another module named 'statistics'; rename the file"),
        ("own_missing", "no such module; name a file, such as my_model.py, or install the module's package"),
        ("own_missing.model", "no such module"),
    ],
)
def test_a_plugin_that_is_not_there_is_refused_at_once(name: str, message: str, tmp_path: Path) -> None:
    if name in ("own-model.py", "statistics.py"):
        plugin(tmp_path, name=name)
    named = str(tmp_path / name) if name.endswith(".py") else name
    with pytest.raises(InputError) as error:
        use_plugins([named])
    assert str(error.value).startswith(f"--plugin {named}: {message}")


def test_an_unknown_model_is_refused_with_the_option_that_adds_one() -> None:
    assert refusal().endswith("(--plugin before the command names a file with a model of your own)")


def test_the_option_after_the_command_is_refused_with_its_place() -> None:
    command = [sys.executable, "-m", "onward.training", "train", "srgnn", "--plugin", "own.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    expected = "error: --plugin stands before the command: onward-training --plugin my_model.py train ...\n"
    assert done.stderr == expected
