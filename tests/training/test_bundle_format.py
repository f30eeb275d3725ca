"""The page about the files of a bundle: its code opens real bundles, and finds what the library says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from onward.bundle import Bundle, Options, SessionView
from onward.training import Preparation, Recipe, SplitKind, export_bundle, prepare, train
from onward.training.cli import cli
from onward.training.index.kind import IndexKind
from onward.training.tuning.search_space import with_values

PAGE = Path(__file__).parents[2] / "docs" / "bundle-format.md"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated shop with attributes, prepared."""
    folder = tmp_path_factory.mktemp("bundle-format")
    CliRunner().invoke(cli, ["generate", "--out", str(folder / "shop"), "--events", "3000"], catch_exceptions=False)
    events, items = folder / "shop" / "events.parquet", folder / "shop" / "items.parquet"
    prepare([str(events)], folder / "dataset", Preparation(split=SplitKind.TEMPORAL), items=str(items))
    return folder


@pytest.fixture(
    scope="module", params=["srgnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("comirec_sa", "knn"))]
)
def opened(shop: Path, request: pytest.FixtureRequest) -> tuple[Bundle, dict[str, Any]]:
    """A bundle as the library opens it, and the names of the page's code after it has run beside the bundle.

    One with content, one with several interests, one with past sessions.
    """
    recipe, folder = Recipe.load(Path(request.param)), shop / request.param
    if recipe.has_steps:
        recipe = Recipe.parse(
            with_values(recipe.text, {"encoder.dimension": 16, "training.refit": False}), "small.toml"
        )
    train(recipe, shop / "dataset", folder / "run", epochs=1, device_name="cpu")
    with_content = request.param == "srgnn"
    export_bundle([folder / "run"], folder / "bundles", index=IndexKind.FLAT, new_items=with_content)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        exec("\n".join(blocks), names)  # noqa: S102  # the page is our own
    return Bundle.load(folder / "bundles" / "current"), names


def test_rows_and_vectors_are_those_of_the_library(opened: tuple[Bundle, dict[str, Any]]) -> None:
    bundle, page = opened
    for item_id in (page["ids"][1], page["ids"][-1]):
        assert page["attributes"](item_id) == bundle.attributes(item_id)
    assert page["manifest"]["items"] == len(page["row_of"])


def test_the_answer_is_that_of_the_library(opened: tuple[Bundle, dict[str, Any]]) -> None:
    bundle, page = opened
    if page["manifest"].get("nearest_sessions"):
        pytest.skip("votes are not part of the page's scores")
    expected = bundle.retrieve(SessionView(page["session"]), Options(k=5, exact=True)).items
    actual = page["best"](page["session"], 5)
    assert [item_id for item_id, _ in actual] == list(expected.item_ids)
    assert [score for _, score in actual] == pytest.approx(list(expected.scores), rel=1e-4)
    assert set(page["found"]) <= set(page["row_of"])


def test_a_feature_of_content_has_the_digest_that_the_page_says(opened: tuple[Bundle, dict[str, Any]]) -> None:
    _, page = opened
    if "content" not in page["manifest"]:
        pytest.skip("has no content program")
    category = page["attributes"](page["ids"][1])["category"]
    row = page["row_of_feature"]("category", "value", category.casefold())
    assert row in page["features"].of({"category": category}).rows_T
    assert page["row_of_feature"]("category", "value", "no such category") == 0


def test_past_sessions_and_their_inverted_index_agree(opened: tuple[Bundle, dict[str, Any]]) -> None:
    _, page = opened
    if "nearest_sessions" not in page["manifest"]:
        pytest.skip("has no nearest sessions")
    for number in range(len(page["items_offsets"]) - 1):
        rows = page["rows_of_session"](number)
        assert len(set(rows.tolist())) == len(rows)
        assert all(number in page["sessions_of_row"](row) for row in rows)  # fewer sessions than candidates
    assert np.array_equal(np.bincount(page["items"], minlength=len(page["counts"])), page["counts"])
