"""The command `changes` prints the changes of the live catalog as `rebuild` reads them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.bundle.catalog.live_item import read_changes
from onward.service.cli import cli
from onward.service.live.catalog import ItemPatch, change_lines, open_live_catalog
from onward.service.redis_client import connect

TITLE = "one\u2028two\u0085three\x1cfour"  # what str.splitlines takes for ends of lines


async def patch(url: str) -> None:
    catalog = open_live_catalog(connect(url))
    attributes = {"price": 2.5, "tags": None, "title": TITLE}
    await catalog.patch({"ä/1": [ItemPatch(attributes, False, ["b"])], "new": [ItemPatch()]})
    await catalog.close()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["changes", *arguments])
    return result.exit_code, result.output


async def test_change_lines_are_readable_by_rebuild(valkey: str, tmp_path: Path) -> None:
    await patch(valkey)
    lines = await change_lines(valkey)
    (tmp_path / "changes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    changes = {change.item_id: change for change in read_changes(tmp_path / "changes.jsonl")}
    assert changes["ä/1"].stored() == {
        "item_id": "ä/1",
        "sequence": changes["ä/1"].sequence,
        "attributes": {"price": 2.5, "tags": None, "title": TITLE},
        "available": False,
        "similar_to": ["b"],
    }
    assert changes["new"].sequence == changes["ä/1"].sequence + 1


@pytest.mark.parametrize("url", ["unix:///nowhere/socket", "memory://", "http://127.0.0.1"])
def test_an_unusable_server_is_reported_in_one_line(url: str) -> None:
    code, output = run("--redis-url", url)
    assert code == 2
    assert output.startswith("error: --redis-url: ")
    assert output.count("\n") == 1


def test_the_command_prints_all_changes(valkey: str) -> None:
    code, output = run("--redis-url", valkey)
    assert code == 0
    assert all(line.startswith('{"') for line in output.removesuffix("\n").split("\n"))
