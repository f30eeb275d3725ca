"""Collects the rows of the report, and marks every test of the folder."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from onward.training.hardware import machine
from tests.faults.row import Row
from tests.service.shop import publish_shop

ROWS = pytest.StashKey[list[Row]]()
FOLDER = Path(__file__).parent
Record = Callable[[Row], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, help="File to write the rows of the report to, as JSON.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents and item.path.name != "test_report.py":
            item.add_marker(pytest.mark.faults)


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows, path = session.config.stash[ROWS], session.config.getoption("--rows", default=None)
    if path is not None and rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = machine("fastapi", "uvicorn")
        described = f"{figures['processor']}, {figures['cores']} cores, Python {figures['python']}"
        path.write_text(json.dumps({"machine": described, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """A function that adds a row to the report, and fails the test if the row breaks its promise."""

    def add(row: Row) -> None:
        request.config.stash[ROWS].append(row)
        assert row.kept, row

    return add


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    publish_shop(folder)
    return folder
