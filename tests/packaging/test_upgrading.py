"""The imports that docs/upgrading.md names exist."""

import re
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "upgrading.md"
ROWS = [
    [re.findall(r"`([\w.]+)`", cell) for cell in line.strip("| \n").split("|")]
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| `(service|training)[.\w]*`", line)
]


@pytest.mark.parametrize(("old", "new"), ROWS)
def test_each_old_import_has_a_new_one_that_exists(old: list[str], new: list[str]) -> None:
    assert len(old) == len(new) > 0
    for name in new:
        assert locate(name) is not None, name


def test_the_locator_of_compiled_code_exists() -> None:
    (name,) = re.findall(r"by `(onward\.bundle\.encoder\.[\w.]+)`", PAGE.read_text())
    assert find_spec(name.rpartition(".")[0]) is not None
    assert locate(name) is not None
