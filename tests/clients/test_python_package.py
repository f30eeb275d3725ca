"""The wheel of the Python client works in a clean environment, and its README says what is true."""

import re
import sys
import venv
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, run

pytestmark = pytest.mark.clients

PYTHON_CLIENT = ROOT / "clients" / "python"
README = (PYTHON_CLIENT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with nothing but the built wheel and what it requires."""
    folder = tmp_path_factory.mktemp("python-client")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(PYTHON_CLIENT)])
    (wheel,) = folder.glob("onward_client-*.whl")
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", str(wheel)], cwd=folder)
    return python


def test_the_wheel_holds_the_package_and_its_types_and_nothing_else(python: Path) -> None:
    listed = run([str(python), "-m", "pip", "show", "--files", "onward-client"]).stdout
    files = {line.strip() for line in listed.partition("Files:\n")[2].splitlines()}
    sources = {f"onward_client/{path.name}" for path in (PYTHON_CLIENT / "src" / "onward_client").iterdir()}
    assert "onward_client/py.typed" in sources
    installed = {file for file in files if ".dist-info/" not in file and "__pycache__" not in file}
    assert installed == sources - {"onward_client/__pycache__"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(EXAMPLES.index(example)))
def test_an_example_of_the_readme_runs(python: Path, service_url: str, tmp_path: Path, example: str) -> None:
    script = tmp_path / "example.py"
    script.write_text(example.replace("http://127.0.0.1:8000", service_url))
    run([str(python), "-W", "error", str(script)], cwd=tmp_path)
