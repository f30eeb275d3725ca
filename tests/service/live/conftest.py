"""Fixtures: a published bundle, and the folder of a service for copies of it."""

from pathlib import Path

import pytest

from tests.bundles import item_ids, publish_bundle


@pytest.fixture
def published(tmp_path: Path) -> Path:
    bundles = tmp_path / "bundles"
    return bundles / publish_bundle(bundles, item_ids("a", 10))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "copies").mkdir(mode=0o700)
    return tmp_path / "copies"
