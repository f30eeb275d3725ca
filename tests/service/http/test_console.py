"""The files of the console: who gets them, with which headers, and the setting that turns them off."""

from pathlib import Path

import pytest

from onward.service.http.routes.console import CONSOLE_PATHS, FOLDER
from tests.service.shop import opened, problem


def test_every_file_is_served_without_a_key_and_allows_no_other_origin(bundles: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    keys.write_text("")
    with opened(bundles, keys_file=keys) as client:
        for path in sorted(CONSOLE_PATHS - {"/console"}):
            response = client.get(path)
            assert response.status_code == 200, path
            assert (
                "default-src 'none'; script-src 'self'; style-src 'self'" in response.headers["content-security-policy"]
            )
        assert problem(client.get("/v1/items:popular")) == (401, "missing_key")


def test_a_browser_that_has_a_file_is_told_so(bundles: Path) -> None:
    with opened(bundles) as client:
        first = client.get("/console/")
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        again = client.get("/console/", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_path_without_a_slash_leads_to_the_page(bundles: Path) -> None:
    with opened(bundles) as client:
        assert client.get("/console", follow_redirects=False).headers["location"] == "console/"
        assert client.get("/console").status_code == 200


def test_the_console_can_be_turned_off(bundles: Path) -> None:
    with opened(bundles, console="off") as client:
        assert problem(client.get("/console/")) == (404, "not_found")


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.html")), ids=lambda file: file.name)
def test_pages_have_neither_inline_scripts_nor_styles(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
    assert text.count("<script") == text.count("<script src=") + text.count('<script type="module" src=')
