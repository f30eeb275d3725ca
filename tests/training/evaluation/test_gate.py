"""A staged bundle passes the gate unless it is below the live bundle or the floor."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from onward.bundle import GateReport, current_digest, gate_fault, staged_bundles
from onward.bundle.release_record import ReleaseRecord
from onward.training.baselines import BaselineItem
from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.evaluation.cases import held_out_cases, session_of_cases
from onward.training.evaluation.evaluation import evaluate_baselines, evaluate_bundle, without_excluded
from onward.training.evaluation.gate import FLOOR, gate
from onward.training.evaluation.gate_rules import GateRules
from tests.bundles import publish_bundle


def set_rules(bundles: Path, text: str) -> None:
    (bundles / "gate.toml").write_text(text)


LOW_FLOOR = '[accuracy]\nfloor = ["popularity"]\n'
"""Popularity alone: nearest sessions are better on walks than an encoder after three epochs."""


def test_an_equal_bundle_passes_and_its_figures_are_those_of_evaluate(
    bundles_with_staged: Path, dataset: Dataset
) -> None:
    bundles, live = bundles_with_staged, current_digest(bundles_with_staged)
    set_rules(bundles, LOW_FLOOR)
    (digest,) = staged_bundles(bundles)
    report = gate(bundles, digest, dataset.folder)
    assert (report.bundle, report.live, report.passed) == (digest, live, True)
    assert [of.difference for of in report.comparisons if of.reference == "live"] == [0, 0]
    served = evaluate_bundle(bundles / digest, dataset.folder, "test")
    assert report.figures["bundle"] == pytest.approx({name: served[name] for name in ("recall@20", "mrr@20")})
    assert GateReport.read(bundles, digest) == report
    assert gate_fault(bundles, digest) is None


def test_a_bundle_below_the_live_one_and_the_floor_does_not_pass(bundles: Path, dataset: Dataset) -> None:
    digest = publish_bundle(bundles, dataset.item_ids(), make_live=False)
    report = gate(bundles, digest, dataset.folder)
    assert not report.passed
    assert {of.reference for of in report.comparisons if not of.passed} >= {"live", "item-to-item", "vmis-knn"}
    assert "below live" in (gate_fault(bundles, digest) or "")


def test_the_figures_of_the_floor_are_those_of_the_baselines(bundles: Path, dataset: Dataset) -> None:
    live = current_digest(bundles) or ""
    report, floor = gate(bundles, live, dataset.folder), evaluate_baselines(dataset.folder, "test")
    assert report.live == live
    assert list(report.figures) == ["bundle", *FLOOR]
    assert report.slices == {"bundle": report.slices["bundle"], **{name: floor[name]["slices"] for name in FLOOR}}
    for name in FLOOR:
        concentration = {of: floor[name][of] for of in ("gini@20", "popularity_shown@20", "popularity_next")}
        assert report.concentration[name] == pytest.approx(concentration)
        assert report.figures[name] == pytest.approx({of: floor[name][of] for of in ("recall@20", "mrr@20")})


def test_the_floor_leaves_out_what_the_bundle_leaves_out() -> None:
    def retrieve(item_ids: object, k: int) -> list[BaselineItem]:
        return [BaselineItem(item, 1) for item in "abcdef"[:k]]

    def ids(exclude_seen: object) -> str:
        return "".join(item.item_id for item in without_excluded(retrieve, exclude_seen)(["a", "c"], 3))  # type: ignore[arg-type]

    assert [ids(False), ids("purchased"), ids("last"), ids(True)] == ["abc", "abc", "abd", "bde"]


def test_every_case_is_counted_for_its_session(dataset: Dataset) -> None:
    sessions = dataset.sessions("test")
    numbers = session_of_cases(sessions, together=False)
    assert len(numbers) == len(held_out_cases(dataset, "test"))
    assert np.bincount(numbers).tolist() == (np.diff(sessions.offsets) - 1).tolist()
    assert session_of_cases(sessions, together=True).tolist() == list(range(len(sessions)))


def test_too_few_sessions_are_refused(bundles: Path, dataset: Dataset) -> None:
    set_rules(bundles, "[accuracy]\nfewest_sessions = 10000\n")
    with pytest.raises(InputError, match="test sessions are too few to compare bundles"):
        gate(bundles, current_digest(bundles) or "", dataset.folder)


def test_every_rule_has_its_figure_and_bounds_beside_the_live_bundle(
    bundles_with_staged: Path, dataset: Dataset
) -> None:
    bundles = bundles_with_staged
    set_rules(bundles, LOW_FLOOR)
    (digest,) = staged_bundles(bundles)
    rules = {rule.name: rule for rule in gate(bundles, digest, dataset.folder).rules}
    items = len(dataset.item_ids())
    assert (rules["items"].figure, rules["items"].live, rules["items"].low) == (items, items, items / 2)
    assert rules["probes that agree"].figure > 0
    assert rules["overlap of answers with the live bundle"].figure > 0.9
    assert 0 < rules["catalog coverage"].figure <= 1
    assert rules["share of items without a vector"].figure == 0
    assert all(rule.passed for rule in rules.values())
    set_rules(bundles, LOW_FLOOR + "[catalog]\nitems = [1.5, 2.0]\n")
    report = gate(bundles, digest, dataset.folder)
    assert [rule.name for rule in report.rules if not rule.passed] == ["items"]
    assert f"items: {items}, live {items}" in (gate_fault(bundles, digest) or "")


def test_an_interrupted_training_does_not_pass(bundles_with_staged: Path, dataset: Dataset) -> None:
    bundles = bundles_with_staged
    set_rules(bundles, LOW_FLOOR)
    (digest,) = staged_bundles(bundles)
    record = ReleaseRecord.read(bundles, digest)
    assert record is not None
    record.model_copy(update={"unfinished": True}).write(bundles)
    report = gate(bundles, digest, dataset.folder)
    assert [rule.name for rule in report.rules if not rule.passed] == ["finished training"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[accuracy]\nmargni = 0.1\n", "accuracy.margni: Extra inputs are not permitted"),
        ("[accuracy]\nfloor = ['luck']\n", "luck is no baseline; there are "),
        ("[index]\nrecall = 2\n", "index.recall: "),
        ("[index\n", "gate.toml"),
    ],
)
def test_rules_that_are_not_valid_are_named(tmp_path: Path, text: str, message: str) -> None:
    set_rules(tmp_path, text)
    with pytest.raises(InputError, match=message):
        GateRules.of(tmp_path)


def test_the_commands_make_live_only_what_passed_or_is_forced(bundles_with_staged: Path, dataset: Dataset) -> None:
    def command(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, arguments)
        return result.exit_code, result.stdout, str(result.exception)

    bundles = bundles_with_staged
    set_rules(bundles, LOW_FLOOR)
    live, folder, data = current_digest(bundles), str(bundles), str(dataset.folder)
    (good,) = staged_bundles(bundles)
    assert "has not been through the gate" in command("activate", folder)[2]
    code, table, _ = command("gate", folder, "--data", data)
    assert (code, table.splitlines()[-1]) == (0, "passed")
    assert current_digest(bundles) == live
    assert command("activate", folder, good[:12])[:2] == (0, f"{good}\n")
    assert current_digest(bundles) == good

    bad = publish_bundle(bundles, dataset.item_ids(), make_live=False)
    code, table, _ = command("gate", folder, "--data", data)
    assert code == 1
    assert "not passed: below live in recall@20" in table
    assert "below live" in command("activate", folder)[2]
    assert current_digest(bundles) == good
    assert command("activate", folder, "--force")[2] == "--force: say why with --reason"
    assert command("activate", folder, "--force", "--reason", "a season begins")[0] == 0
    assert current_digest(bundles) == bad
    assert staged_bundles(bundles) == []
    assert command("activate", folder, str(live))[0] == 0, "a bundle that was live needs no gate"
    assert "holds no staged bundle" in command("activate", folder)[2]
