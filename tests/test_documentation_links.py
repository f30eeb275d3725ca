"""Every link of the documentation leads to a file or heading, and every repository path that it names exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES += sorted([*(ROOT / "clients").glob("*/README.md"), *(ROOT / "examples").glob("*/README.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
BASES = [ROOT, ROOT / "service" / "onward", ROOT / "service/onward/service", ROOT / "service/onward/bundle"]
BASES += [ROOT / "training" / "onward", ROOT / "training/onward/training"]
"""Folders that a path may be relative to, besides the page's own."""

CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<!\*\*)`([\w.-]+(?:/[\w.-]*)+)`")
"""A path in backticks; one in bold is the title of a file that the page writes."""
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OUTPUTS = "build"
"""The folder of what commands make; it may or may not be there."""
SOURCE_SUFFIXES = (".lua", ".md", ".py", ".toml", ".sh")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """The page without its code blocks."""
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (heading.lower() for heading in HEADING.findall(text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(text_of(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing_paths(page: Path) -> Iterator[str]:
    bases = [page.parent, *BASES]
    for path in PATH.findall(text_of(page)):
        first_folder = path.partition("/")[0]
        if first_folder == OUTPUTS:
            continue
        is_of_repository = path.endswith(SOURCE_SUFFIXES) or any((base / first_folder).exists() for base in BASES)
        if is_of_repository and not any((base / path).exists() for base in bases):
            yield path


@pytest.mark.parametrize("page", [*GUIDES, *DECISIONS], ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert not list(missing_paths(page))
