"""The bundle as a library: the lines that docs/architecture.md shows."""

import re
import subprocess
import sys
from pathlib import Path

from tests.bundles import item_ids, publish_bundle

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_example_of_the_architecture_page_retrieves_items(tmp_path: Path) -> None:
    publish_bundle(tmp_path / "bundles", item_ids("item-", 60))
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-c", example]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed.count("item-") == 5
