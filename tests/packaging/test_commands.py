"""What both commands do about versions and extras that are not installed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from onward.service import __main__ as service
from onward.training import __main__ as training

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMES_WITH: dict[str, set[str]] = {"service": {"starlette"}, "training": set()}
"""Modules of an extra that another requirement of the same extra installs."""

RUN_WITHOUT_A_MODULE = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing)
sys.argv = [{package!r}, *{arguments!r}]
from onward.{package}.__main__ import main

main()
"""


def run_without(missing: str, package: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    script = RUN_WITHOUT_A_MODULE.format(missing=missing, package=package, arguments=arguments)
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["service", "training"])
def test_version_is_that_of_the_distribution(package: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", f"onward.{package}", "--version"]
    printed = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed == f"onward {version('onward')}\n"


@pytest.mark.parametrize(
    ("package", "modules"), [("service", service.EXTRA_MODULES), ("training", training.EXTRA_MODULES)]
)
def test_the_modules_of_an_extra_are_those_of_its_requirements(package: str, modules: frozenset[str]) -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in extras[package]}
    assert modules == {name.replace("-", "_") for name in names} | COMES_WITH[package]


@pytest.mark.parametrize(
    ("missing", "package", "arguments"),
    [
        ("fastapi", "service", ("serve",)),
        ("uvicorn", "service", ("serve",)),
        ("redis", "service", ("changes", "--redis-url", "redis://127.0.0.1")),
        ("polars", "training", ("generate", "--out", "shop")),
        ("narwhals", "training", ("prepare", "clicks.csv", "--out", "dataset")),
        ("torch", "training", ("train", "srgnn", "--data", "dataset", "--out", "run")),
    ],
)
def test_a_missing_extra_is_one_line_and_exit_code_2(
    missing: str, package: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    completed = run_without(missing, package, *arguments, cwd=tmp_path)
    expected = f"error: {missing} is not installed: pip install 'onward[{package}]'\n"
    assert (completed.returncode, completed.stdout, completed.stderr) == (2, "", expected)


@pytest.mark.parametrize(
    ("missing", "package", "arguments"),
    [
        ("onward.service.settings", "service", ("serve",)),
        ("onward.training.data.synthetic", "training", ("generate", "--out", "shop")),
    ],
)
def test_a_missing_module_of_onward_itself_is_a_traceback(
    missing: str, package: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    completed = run_without(missing, package, *arguments, cwd=tmp_path)
    assert completed.returncode == 1
    assert completed.stderr.startswith("Traceback")
    assert "pip install" not in completed.stderr


def test_a_missing_spark_extra_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("session_id,item_id,time\n1,a,1\n")
    arguments = ("prepare", "clicks.csv", "--out", "dataset", "--engine", "spark")
    completed = run_without("pyspark", "training", *arguments, cwd=tmp_path)
    expected = "error: --engine spark needs the spark extra: pip install 'onward[spark]'\n"
    assert (completed.returncode, completed.stdout, completed.stderr) == (2, "", expected)
