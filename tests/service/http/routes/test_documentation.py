"""The page of the API and the way to it need no other host."""

import re
from pathlib import Path

import pytest

from tests.service.shop import opened


def test_the_page_and_its_files_are_all_served_from_here(bundles: Path) -> None:
    with opened(bundles) as client:
        page = client.get("/docs").text
        assert not re.search(r"https?://", page.replace("http://testserver", ""))
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(files) == 3
        for file in files:
            answer = client.get(file)
            assert answer.status_code == 200
            plain = client.get(file, headers={"Accept-Encoding": "identity"})
            assert (plain.content, len(plain.content) > 1_000) == (answer.content, True)
            assert answer.headers["content-encoding"] == "gzip"
            assert plain.headers["content-type"] == answer.headers["content-type"]
        assert "'/openapi.json'" in page


@pytest.mark.parametrize(
    ("settings", "target"),
    [({}, "/console/"), ({"console": "off"}, "/docs")],
)
def test_the_root_leads_to_the_console_or_else_to_the_page(
    bundles: Path, settings: dict[str, str], target: str
) -> None:
    with opened(bundles, **settings) as client:
        answer = client.get("/", follow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["location"] == target


def test_a_service_without_page_and_console_has_no_root(bundles: Path) -> None:
    with opened(bundles, console="off", docs_access="off") as client:
        assert client.get("/").status_code == 404
        assert client.get("/docs").status_code == 404
