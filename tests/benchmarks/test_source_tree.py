"""A benchmark of a source tree notices when its server was loaded from another one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.benchmarks.source_tree import PROC, SourceTree

pytestmark = pytest.mark.skipif(not PROC.exists(), reason="needs /proc")

MAIN = "import sys; print('up', flush=True); sys.stdin.read()"


def write_package(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("app.py", ""), ("__main__.py", MAIN)):
        (folder / name).write_text(text)


@pytest.fixture(params=["service", "onward.service"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> SourceTree:
    root = tmp_path / "revision"
    write_package(root / "service" / ("onward/service" if request.param == "onward.service" else ""))
    tree = SourceTree(root)
    assert tree.program == request.param
    return tree


@contextmanager
def running(program: str, *python_path: Path) -> Iterator[int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, python_path))}
    command = [sys.executable, "-P", "-m", program]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid


def test_a_server_of_its_own_tree_is_named_by_the_path_of_its_package(tree: SourceTree) -> None:
    with running(tree.program, *tree.python_path) as pid:
        path = Path(tree.verify(pid))
    assert path.is_relative_to(tree.root)
    assert path.parent.name == "service"


def test_a_server_loaded_from_a_wrong_path_is_refused(tree: SourceTree, tmp_path: Path) -> None:
    other = SourceTree(tmp_path / "other")
    shutil.copytree(tree.root, other.root)
    with (
        running(tree.program, *other.python_path, *tree.python_path) as pid,
        pytest.raises(SystemExit, match=r"loaded .*service from .*other"),
    ):
        tree.verify(pid)


def test_a_server_of_the_other_layout_is_refused(tree: SourceTree, tmp_path: Path) -> None:
    other = tmp_path / "other"
    program = "service" if tree.program == "onward.service" else "onward.service"
    write_package(other / program.replace(".", "/"))
    with running(program, other) as pid, pytest.raises(SystemExit, match=f"runs {program}, not {tree.program}"):
        tree.verify(pid)


def test_one_module_from_another_tree_is_refused(tmp_path: Path) -> None:
    root, other = tmp_path / "revision", tmp_path / "other"
    write_package(root / "service" / "onward" / "service")
    write_package(other / "onward" / "bundle")
    (root / "service/onward/service/app.py").write_text("import onward.bundle\n")
    tree = SourceTree(root)
    with running(tree.program, *tree.python_path, other) as pid, pytest.raises(SystemExit, match=r"onward\.bundle"):
        tree.verify(pid)
