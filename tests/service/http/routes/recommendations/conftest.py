"""A published shop, and session ids that no other test uses."""

import itertools
from pathlib import Path

import pytest

from onward.bundle import Bundle
from tests.service.shop import publish_shop, shop_bundle

numbers = itertools.count()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a current bundle; each test file has its own."""
    folder = tmp_path_factory.mktemp("shop")
    publish_shop(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(bundles: Path) -> Bundle:
    """The bundle of the shop, to compute expected answers."""
    return shop_bundle(bundles)


@pytest.fixture
def session_id() -> str:
    """A session id that was not used before."""
    return f"visitor-{next(numbers)}-of-the-shop"
