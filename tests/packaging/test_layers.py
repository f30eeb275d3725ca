"""The contracts of import-linter in pyproject.toml reject every import that they are there to reject.

The cases are derived from the contracts, so that a new layer or contract has its own. Each adds one import to the
import graph of the packages. For the first and the last case of each contract, the import is also written into a copy
of the source files and `lint-imports` is run there.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[2]
SOURCES = ("service", "training")
CONFIGURATION = read_configuration(str(ROOT / "pyproject.toml"))
CONTRACTS: Sequence[dict[str, Any]] = CONFIGURATION["contracts_options"]
CONTRACT_TYPES = {"forbidden": ForbiddenContract, "layers": LayersContract}

LINT_IMPORTS = """
import sys
from pathlib import Path

installed = [path for path in sys.path if not (Path(path) / "onward").is_dir()]
sys.path[:] = [*sys.argv.pop().split(":"), *installed]
from importlinter.cli import lint_imports_command

lint_imports_command()
"""
"""`lint-imports` for the packages in the folders of the last argument, in place of those that are installed."""


class Violation(NamedTuple):
    """An import that a contract rejects, or a module that it does not list if `imported` is None."""

    contract: str
    importer: str
    imported: str | None

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}" if self.imported else f"{self.importer} is not listed"


def violations(contract: dict[str, Any]) -> Iterator[Violation]:
    """Yield the smallest violations of a contract, one for each thing that it rejects."""
    name = contract["name"]
    if contract["type"] == "forbidden":
        for source in contract["source_modules"]:
            yield from (Violation(name, source, forbidden) for forbidden in contract["forbidden_modules"])
        return
    for container in contract["containers"]:
        layers = [[f"{container}.{module}" for module in re.findall(r"\w+", layer)] for layer in contract["layers"]]
        for upper, lower in pairwise(layers):
            yield from (Violation(name, importer, imported) for importer in lower for imported in upper)
        for modules, layer in zip(layers, contract["layers"], strict=True):
            if "|" in layer:  # separates modules that must not import each other
                yield from (Violation(name, a, b) for a in modules for b in modules if a != b)
        if contract.get("exhaustive"):
            yield Violation(name, f"{container}.unlisted", None)


VIOLATIONS = [list(violations(contract)) for contract in CONTRACTS]


def broken_contracts(graph: grimp.ImportGraph) -> set[str]:
    """Return the names of the contracts that an import graph breaks."""
    contracts = [
        CONTRACT_TYPES[options["type"]](options["name"], CONFIGURATION["session_options"], options)
        for options in CONTRACTS
    ]
    return {contract.name for contract in contracts if not contract.check(deepcopy(graph), verbose=False).kept}


def add_to_graph(violation: Violation, graph: grimp.ImportGraph) -> None:
    """Add a violation to an import graph, in a module that is as deep within the importing package as there is."""
    if violation.imported is None:
        graph.add_module(violation.importer)
        return
    importer = max(sorted(graph.find_descendants(violation.importer)), key=lambda name: name.count("."), default="")
    graph.add_import(importer=importer or violation.importer, imported=violation.imported)


def add_to_files(violation: Violation, folder: Path) -> None:
    """Write a violation into a copy of the source folders."""
    path = violation.importer.replace(".", "/")
    if violation.imported is None:
        package = next(filter(Path.exists, [(folder / source / path).parent for source in SOURCES]))
        (package / f"{Path(path).name}.py").write_text("")
        return
    candidates = [folder / source / f"{path}{suffix}" for source in SOURCES for suffix in (".py", "/__init__.py")]
    (file,) = filter(Path.exists, candidates)
    file.write_text(f"{file.read_text()}\nimport {violation.imported}\n")


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `lint-imports` on a copy of the source folders."""
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    command = [sys.executable, "-c", LINT_IMPORTS, *options, ":".join(str(folder / source) for source in SOURCES)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        *CONFIGURATION["session_options"]["root_packages"], include_external_packages=True, cache_dir=None
    )


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for source in SOURCES:
        shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_packages_keep_every_contract(graph: grimp.ImportGraph) -> None:
    assert broken_contracts(graph) == set()


@pytest.mark.parametrize("violation", [case for cases in VIOLATIONS for case in cases], ids=str)
def test_each_violation_breaks_its_contract(graph: grimp.ImportGraph, violation: Violation) -> None:
    changed = deepcopy(graph)
    add_to_graph(violation, changed)
    assert violation.contract in broken_contracts(changed)


def test_lint_imports_accepts_a_copy_of_the_sources(sources: Path) -> None:
    completed = lint_imports(sources)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("violation", [case for cases in VIOLATIONS for case in (cases[0], cases[-1])], ids=str)
def test_lint_imports_names_the_contract_that_a_file_breaks(sources: Path, violation: Violation) -> None:
    add_to_files(violation, sources)
    completed = lint_imports(sources)
    assert completed.returncode == 1
    assert f"{violation.contract} BROKEN" in completed.stdout
