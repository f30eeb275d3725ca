"""The lines of the package's docstring run on a small bundle, given its folder or `current`, as a path or a string."""

import doctest
from collections.abc import Callable
from pathlib import Path

import pytest

import onward.bundle
from onward.bundle import Bundle
from tests.bundles import item_ids, publish_bundle

IDS = item_ids("item-", 30)


def docstring_lines() -> str:
    assert onward.bundle.__doc__ is not None
    examples = doctest.DocTestParser().get_examples(onward.bundle.__doc__)
    return "".join(example.source for example in examples)


def test_the_docstring_prints_the_five_most_likely_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(tmp_path / "bundles", IDS)
    monkeypatch.chdir(tmp_path)
    exec(docstring_lines(), {})  # noqa: S102  # the lines of our own docstring
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    scores = [float(score) for _, score in printed]
    assert len(printed) == 5
    assert {item_id for item_id, _ in printed} < set(IDS)
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_bundle_is_loaded_from_its_folder_or_from_current(kind: Callable[[Path], str | Path], tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    assert Bundle.load(kind(tmp_path / digest)).digest == digest
    assert Bundle.load(kind(tmp_path / "current")).digest == digest
