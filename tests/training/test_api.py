"""The functions of `onward.training`: each name is there, and the page about them runs as it is."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import onward.training
from onward.training.cli import cli

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.parametrize("name", onward.training.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(onward.training, name).__name__ == name.removesuffix("_bundle" if name.startswith("export") else "")
    assert name in dir(onward.training)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = onward.training.no_such_name


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    generated = CliRunner().invoke(cli, ["generate", "--out", str(tmp_path / "shop"), "--events", "4000"])
    assert generated.exit_code == 0
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    exec("\n".join(blocks), {})  # noqa: S102  # the page is our own
    printed = capsys.readouterr().out
    assert "srgnn-narrow" in printed
    assert (tmp_path / "comparison" / "curves.png").read_bytes().startswith(b"\x89PNG")
