"""docs/settings.md lists every setting of the service, and no other."""

import re
from pathlib import Path

from onward.service.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_is_documented_once() -> None:
    documented = re.findall(r"^\| `(SERVICE_\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(
        f"SERVICE_{name.upper()}" for name in Settings.model_fields if name != "redis_url"
    )
