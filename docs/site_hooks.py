"""What the site adds to the pages of docs/: pages that lie beside it, the decisions, and links that lead nowhere else.

Called by mkdocs, see mkdocs.yml.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BESIDE = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the repository that become pages of the site."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Add the decisions to the contents, by their titles."""
    contents = config.nav or []
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    config.nav = [*contents, {"Decisions": [f"decisions/{decision.name}" for decision in decisions]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie beside docs/."""
    for name, uri in BESIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to pages of the site, and make text of those to other files of the repository."""
    uri = page.file.src_uri
    beside = {made: name for name, made in BESIDE.items()}
    folder = (ROOT / beside[uri]).parent if uri in beside else (DOCS / uri).parent

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if not target or "://" in target:
            return link[0]
        path = Path(os.path.normpath(folder / target))
        if path.parent == ROOT and path.name in BESIDE:
            to = BESIDE[path.name]
        elif path.is_relative_to(DOCS) and path.is_file():
            to = path.relative_to(DOCS).as_posix()
        else:
            return text
        return f"[{text}]({os.path.relpath(to, os.path.dirname(uri) or '.')}{anchor})"

    return LINK.sub(replaced, markdown)
