"""Price tables: the package's own, and those of users, with one line for each fault."""

from importlib.resources import files
from pathlib import Path

import pytest

from onward.service.planning import PriceError, read_prices

TABLE = files("onward.service.planning").joinpath("prices.toml").read_text(encoding="utf-8")


def test_the_package_has_a_table_that_can_be_copied(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TABLE)
    assert read_prices(tmp_path / "prices.toml") == read_prices()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("core_hour = 0.04", "core_hour = -1"), "core_hour"),
        (TABLE.replace("core_hour", "cpu_hour"), "core_hour"),
        (TABLE + "vat = 0.2\n", "vat"),
        ("currency = ", "is not TOML"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(PriceError, match=message) as refused:
        read_prices(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match=r"none\.toml: No such file"):
        read_prices(tmp_path / "none.toml")
