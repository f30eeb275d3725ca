"""The files and commands of docs/adding-a-model.md work, in a folder of one's own and in a copy of the tree."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset
from onward.training.model_contract import CHECKS
from tests.service.process import ServiceProcess

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-model.md"
COPIED = ("training", "service", "tests", "docs", "pyproject.toml")
PROGRAMS = {"python": [sys.executable], "onward-training": [sys.executable, "-m", "onward.training"]}
INTO_THE_PACKAGE = {
    "mean.py": "training/onward/training/models/mean.py",
    "mean.toml": "training/onward/training/recipes/mean.toml",
}
ONLY_OUTSIDE = (
    "from onward.training.models import Model\n",
    '\n\nMODELS = {"mean": Model(Mean, MeanOptions)}\n',
)
"""What a model in the package lacks."""
CHANCE = 20 / 60


def blocks(text: str) -> dict[str, tuple[str, str]]:
    """{path: (language, content)} of the page's files."""
    files = re.findall(r"^\*\*`(.+?)`\*\*\n\n```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return {path: (language, content) for path, language, content in files}


def commands(text: str) -> list[list[list[str]]]:
    """The commands of each block."""
    found = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [[shlex.split(line) for line in lines.splitlines()] for lines in found]


def added(text: str, diff: str) -> str:
    """Apply `diff` to `text`: insert the lines that begin with + after the line before them."""
    lines = text.splitlines()
    place = 0
    for line in diff.splitlines():
        if line.startswith("+"):
            place += 1
            lines.insert(place, line[1:])
        else:
            place = lines.index(line[1:])
    return "\n".join(lines) + "\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tree with the files of the page.

    Its __pycache__ folders hold the compiled kernels, which would otherwise be compiled anew.
    """
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path / name)
    for path, (language, content) in blocks(PAGE.read_text()).items():
        file = tmp_path / INTO_THE_PACKAGE.get(path, path)
        if path == "mean.py":
            for part in ONLY_OUTSIDE:
                assert part in content
                content = content.replace(part, "")
        file.write_text(added(file.read_text(), content) if language == "diff" else content)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, dataset: Dataset) -> Path:
    """A folder of one's own, with the model, its recipe and a dataset."""
    files = blocks(PAGE.read_text())
    for name in INTO_THE_PACKAGE:
        (tmp_path / name).write_text(files[name][1])
    (tmp_path / "dataset").symlink_to(dataset.folder)
    return tmp_path


def run(command: list[str], folder: Path, tree: Path = ROOT) -> str:
    """The output of a command of the page; tests of other models are skipped."""
    program, *arguments = command
    narrowed = (
        ["-k", "mean or has_a_variant", "-p", "no:xdist", "-p", "no:cacheprovider"] if "pytest" in arguments else []
    )
    done = subprocess.run(
        [*PROGRAMS[program], *arguments, *narrowed],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{tree / 'service'}{os.pathsep}{tree / 'training'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_model_outside_the_package_is_checked_trained_and_served(folder: Path) -> None:
    (check,), (*in_training, serve), _ = commands(PAGE.read_text())
    assert len(run(check, folder).splitlines()) == len(CHECKS)
    *_, evaluated = [run(command, folder) for command in in_training]
    metrics = json.loads(evaluated)
    assert metrics["model"] == "mean"
    assert metrics["recall@20"] > 2 * CHANCE
    assert serve == ["onward-service", "serve", "--bundles", "bundles"]
    with ServiceProcess(folder / "bundles") as process, process.wait_until_ready().client() as client:
        answer = client.post("/v1/recommendations", json={"items": ["item-0-0"], "k": 10}).json()
    assert {item["source"] for item in answer["items"]} == {"encoder"}


@pytest.mark.slow
def test_a_model_in_the_package_passes_the_contract(tree: Path) -> None:
    *_, (test,) = commands(PAGE.read_text())
    passed = re.search(r"(\d+) passed", run(test, tree, tree))
    assert passed is not None
    assert int(passed[1]) > 2 * len(CHECKS)


def test_the_files_of_the_page_pass_the_linter(tree: Path) -> None:
    (tree / "mean.py").write_text(blocks(PAGE.read_text())["mean.py"][1])
    files = [str(tree / path) for path in blocks(PAGE.read_text()) if path.endswith(".py")]
    files.append(str(tree / INTO_THE_PACKAGE["mean.py"]))
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, *files], cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
