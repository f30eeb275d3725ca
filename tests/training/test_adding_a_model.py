"""The files and commands of docs/adding-a-model.md work: in a copy of the tree they make a model that learns."""

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

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-model.md"
COPIED = ("training", "service", "tests", "docs", "pyproject.toml")
PROGRAMS = {"python": [sys.executable], "onward-training": [sys.executable, "-m", "onward.training"]}
CHANCE = 20 / 60


def blocks(text: str) -> dict[str, tuple[str, str]]:
    """{path: (language, content)} of the page's files."""
    files = re.findall(r"^\*\*`(.+?)`\*\*\n\n```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return {path: (language, content) for path, language, content in files}


def commands(text: str) -> list[list[str]]:
    (lines,) = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in lines.splitlines()]


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
    """A copy of the tree with the files of the page."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    for path, (language, content) in blocks(PAGE.read_text()).items():
        file = tmp_path / path
        file.write_text(added(file.read_text(), content) if language == "diff" else content)
    return tmp_path


def run(command: list[str], tree: Path) -> str:
    """The output of a command of the page; tests of other models are skipped."""
    program, *arguments = command
    narrowed = ["-k", "mean or has_a_form", "-p", "no:xdist", "-p", "no:cacheprovider"] if "pytest" in arguments else []
    done = subprocess.run(
        [*PROGRAMS[program], *arguments, *narrowed],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": f"{tree / 'service'}{os.pathsep}{tree / 'training'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_model_of_the_page_passes_the_contract_and_learns(tree: Path, dataset: Dataset) -> None:
    (tree / "dataset").symlink_to(dataset.folder)
    tested, _, _, evaluated = [run(command, tree) for command in commands(PAGE.read_text())]
    passed = re.search(r"(\d+) passed", tested)
    assert passed is not None
    assert int(passed[1]) > 20
    metrics = json.loads(evaluated)
    assert metrics["model"] == "mean"
    assert metrics["recall@20"] > 2 * CHANCE


def test_the_files_of_the_page_pass_the_linter(tree: Path) -> None:
    files = [str(tree / path) for path in blocks(PAGE.read_text()) if path.endswith(".py")]
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, *files], cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
