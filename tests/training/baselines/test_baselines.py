"""Baselines count only events before the evaluated part, and can exclude the session's own items."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.training.baselines import BASELINES
from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.evaluation.evaluation import evaluate_baselines
from tests.training.data.conftest import Prepare, log


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    return Prepare(tmp_path)


@pytest.mark.parametrize("name", BASELINES)
def test_validation_is_not_counted_when_it_is_evaluated(prepared: Prepare, name: str) -> None:
    """Only the validation session contains a, z and y together."""
    dataset = prepared(
        log({"s1": "a b", "s2": "a b", "s3": "b c", "s4": "a z y y y y"}), test=log({"t": "a b"}), validation=0.25
    )
    asked_of_validation = BASELINES[name](dataset, "validation").retrieve(["a"], 3)
    assert {item.item_id for item in asked_of_validation} == {"a", "b", "c"}
    asked_of_test = BASELINES[name](dataset, "test").retrieve(["a"], 3)
    assert "y" in {item.item_id for item in asked_of_test}


def test_histories_are_counted_once_if_several_parts_contain_them(prepared: Prepare) -> None:
    """Leave-one-out: the histories of validation continue those of training."""
    dataset = prepared(log({"u1": "a a b c d", "u2": "b b b c d"}), SplitKind.LEAVE_ONE_OUT)
    ranking = BASELINES["popularity"](dataset, "test").retrieve([], 3)
    assert [(item.item_id, item.score) for item in ranking] == [("b", 4 / 9), ("a", 2 / 9), ("c", 2 / 9)]


def test_items_of_the_session_can_be_excluded(prepared: Prepare) -> None:
    """Of four targets one was seen before."""
    dataset = prepared(log({"s1": "a b c", "s2": "a b c"}), test=log({"t": "a b a", "u": "a b c"}))
    shown = evaluate_baselines(dataset.folder, "test")
    hidden = evaluate_baselines(dataset.folder, "test", hide_seen=True)
    for name in BASELINES:
        assert shown[name]["recall@10"] == 1, name
        assert hidden[name]["recall@10"] == pytest.approx(3 / 4), name


def test_the_command_prints_every_baseline(dataset: Dataset) -> None:
    printed = CliRunner().invoke(cli, ["baselines", "--data", str(dataset.folder), "--hide-seen", "--json"])
    assert list(json.loads(printed.stdout)) == list(BASELINES)
