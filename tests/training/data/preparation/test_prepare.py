import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
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
        "train: 39 events, 13 sessions, 3 items, 26 examples",
        "validation: 9 events, 3 sessions, 3 items, 6 examples",
        "test: 12 events, 4 sessions, 3 items, 8 examples",
        "read: 62 rows of 1 files",
    ]
    assert "dropped: 1 events, missing item id: clicks.csv row 61\n" in outcome.out
    assert "dropped: 1 events, missing session id: clicks.csv row 62\n" in outcome.out
    assert "kept: 60 of 62 events" in outcome.out
    adapted = "--min-support 1, --min-length 1, --validation 0.2, --test-share 0.2"
    assert f"note: by the size of the log, 60 events: {adapted}\n" in outcome.out


def test_what_is_given_is_not_adapted_to_the_size_of_the_log(
    onward_training: Command, clicks: Path, tmp_path: Path
) -> None:
    given = ("--min-support", "2", "--min-length", "3", "--validation", "0.1", "--test-days", "0.1")
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset", *given)
    assert outcome.code == 0
    assert "by the size of the log" not in outcome.out
    options = Dataset.open(tmp_path / "dataset").info.options
    assert (options.min_support, options.min_length, options.validation, options.test_days) == (2, 3, 0.1, 0.1)


@pytest.mark.parametrize(
    ("events", "limits"),
    [(99_999, (1, 1, 0.2, 0.2)), (100_000, (2, 1, 0.1, 0.1)), (500_000, (5, 2, 0.1, 0.1))],
)
def test_limits_follow_the_size_of_a_log(events: int, limits: tuple[int, int, float, float]) -> None:
    assert Preparation(split=SplitKind.TEMPORAL).limits(events) == limits
    assert Preparation(split=SplitKind.TEMPORAL, min_support=3, validation=0).limits(events) == (
        *(3, limits[1]),
        *(0, limits[3]),
    )


def test_json_prints_dataset_json(onward_training: Command, clicks: Path, tmp_path: Path) -> None:
    outcome = onward_training("prepare", clicks, "--out", tmp_path / "dataset", "--json")
    assert json.loads(outcome.out) == json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert json.loads(outcome.out)["options"]["min_support"] == 1


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
    assert Dataset.open(out).info.options.validation == 0.2
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
