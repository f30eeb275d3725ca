import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset
from tests.training.data.conftest import Outcome, log

Command = Callable[..., Outcome]


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """A log with two unusable rows."""
    file = tmp_path / "clicks.csv"
    bad = "s1,,1700000000\n,a,1700000000\n"
    file.write_text(log({f"s{number}": "a b c" for number in range(20)}).write_csv() + bad)
    return file


def test_a_plain_summary_shows_counts_and_problems(onward_training: Command, clicks: Path, tmp_path: Path) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset")
    assert outcome.code == 0
    assert outcome.out.splitlines()[:6] == [
        "columns: session 'session_id' (guessed), item 'item_id' (guessed), time 'timestamp' (guessed)",
        "times: numbers since 1970 or ISO 8601",
        "train: 51 events, 17 sessions, 3 items, 34 examples",
        "validation: 3 events, 1 sessions, 3 items, 2 examples",
        "test: 6 events, 2 sessions, 3 items, 4 examples",
        "read: 62 rows of 1 files",
    ]
    assert "dropped: 1 events, missing item id: clicks.csv row 61\n" in outcome.out
    assert "dropped: 1 events, missing session id: clicks.csv row 62\n" in outcome.out
    assert "kept: 60 of 62 events" in outcome.out


def test_json_prints_dataset_json(onward_training: Command, clicks: Path, tmp_path: Path) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset", "--json")
    assert json.loads(outcome.out) == json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert json.loads(outcome.out)["options"]["min_support"] == 5


def test_strict_stops_at_a_problem_and_writes_nothing(onward_training: Command, clicks: Path, tmp_path: Path) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset", "--strict")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == (
        "error: clicks.csv row 61: missing item id (1); clicks.csv row 62: missing session id (1); "
        "correct the rows, or leave out --strict to drop them"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clicks.csv"]


def test_a_dataset_is_replaced_only_with_force(onward_training: Command, clicks: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    assert onward_training("prepare", clicks, "--out", out).code == 0
    again = onward_training("prepare", clicks, "--out", out, "--validation", "0")
    assert (again.code, again.err) == (2, f"error: {out}: exists already; give --force to replace it\n")
    assert Dataset.open(out).info.options.validation == 0.1
    assert onward_training("prepare", clicks, "--out", out, "--validation", "0", "--force").code == 0
    assert Dataset.open(out).info.options.validation == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clicks.csv", "dataset"]


def test_force_never_replaces_a_folder_that_is_no_dataset(
    onward_training: Command, clicks: Path, tmp_path: Path
) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path, "--force")
    assert outcome.code == 2
    assert "holds no dataset.json, so it is not replaced" in outcome.err
    assert clicks.exists()


@pytest.mark.parametrize("gap", ["30", "m", "-3m", "0s", "1.5h"])
def test_a_gap_is_a_number_with_a_unit(onward_training: Command, clicks: Path, tmp_path: Path, gap: str) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset", f"--gap={gap}")
    assert (outcome.code, outcome.err) == (2, f"error: --gap {gap!r}: write a number and s, m, h or d, such as 30m\n")


@pytest.mark.parametrize("command", ["prepare", "generate"])
def test_help_shows_an_example(onward_training: Command, command: str) -> None:
    outcome = onward_training(command, "--help")
    assert outcome.code == 0
    assert f"Example: onward-training {command}" in " ".join(outcome.out.split())
