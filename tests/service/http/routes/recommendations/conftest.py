"""A shop to ask for recommendations, and visitors that no other test knows."""

import itertools
from pathlib import Path

import pytest

from onward.bundle import Bundle
from tests.service.shop import publish_shop, shop_bundle

numbers = itertools.count()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles of which one is current; each test file has its own."""
    folder = tmp_path_factory.mktemp("shop")
    publish_shop(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(bundles: Path) -> Bundle:
    """What serves, to be asked by hand."""
    return shop_bundle(bundles)


@pytest.fixture
def session_id() -> str:
    """The id of a visitor who was not seen before."""
    return f"visitor-{next(numbers)}-of-the-shop"
