"""Evaluation cases, metrics of rankings, and ties that count against the model."""

import json
from collections.abc import Sequence
from math import inf, isnan, log2, nan
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from onward.bundle import Bundle, Options, SessionView
from onward.training.baselines import BASELINES, BaselineItem
from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.errors import InputError
from onward.training.evaluation import cases as cases_module
from onward.training.evaluation.cases import CaseSample, EvaluationCase, cases_of, held_out_cases
from onward.training.evaluation.evaluation import evaluate, evaluate_bundle, served_by
from tests.training.data.conftest import Prepare, log


def test_every_target_is_a_case_with_the_items_before_it(dataset: Dataset) -> None:
    sessions = dataset.sessions("test")
    cases = list(cases_of(sessions, together=False))
    assert len(cases) == dataset.info.parts["test"].examples
    first = sessions.item_ids[: sessions.offsets[1]]
    assert [case.inputs for case in cases[: len(first) - 1]] == [first[:end] for end in range(1, len(first))]
    assert [case.targets for case in cases[: len(first) - 1]] == [[item] for item in first[1:]]


def test_targets_of_a_session_can_be_one_case(dataset: Dataset) -> None:
    sessions = dataset.sessions("test")
    cases = list(cases_of(sessions, together=True))
    assert len(cases) == len(sessions)
    assert [*cases[0].inputs, *cases[0].targets] == sessions.item_ids[: sessions.offsets[1]]


def test_a_target_that_repeats_counts_once(tmp_path: Path) -> None:
    histories = log({f"u{number}": "a a a a a a a a b b" for number in range(10)})
    (case,) = held_out_cases(Prepare(tmp_path)(histories, SplitKind.BY_USER), "test")
    assert case.targets == ["b"]

    def retrieve(items: Sequence[str], k: int) -> list[BaselineItem]:
        return [BaselineItem("b", 1.0), BaselineItem("a", 0.0)]

    metrics = evaluate(retrieve, [case], items=2, ks=[3])
    assert metrics["recall@3"] == metrics["mrr@3"] == metrics["ndcg@3"] == 1


def test_metrics_of_a_known_ranking() -> None:
    def retrieve(items: Sequence[str], k: int) -> list[BaselineItem]:
        return [BaselineItem(item, -place) for place, item in enumerate("abcdef"[:k])]

    metrics = evaluate(retrieve, [EvaluationCase(["x"], ["b"]), EvaluationCase(["x"], ["d"])], items=10, ks=[3])
    assert metrics["recall@3"] == pytest.approx(1 / 2)
    assert metrics["mrr@3"] == pytest.approx(1 / 4)
    assert metrics["coverage@3"] == pytest.approx(3 / 10)
    assert metrics["examples"] == 2


def test_ties_count_against_the_model() -> None:
    def retrieve(items: Sequence[str], k: int) -> list[BaselineItem]:
        return [BaselineItem(item, 0.0) for item in "abcdef"[:k]]

    assert evaluate(retrieve, [EvaluationCase(["x"], ["a"])], items=6, ks=[3])["recall@3"] == 0


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 1.0, 2.0, nan, inf, -inf])), st.data())
def test_metrics_equal_a_plain_formulation_in_which_nan_is_never_a_hit(
    scores: dict[str, float], data: st.DataObject
) -> None:
    targets = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4))
    ranking = [BaselineItem(item, score) for item, score in scores.items()]
    metrics = evaluate(
        lambda items, k: ranking, [EvaluationCase(["x"], [target]) for target in targets], items=8, ks=[3]
    )
    comparable = {item: score for item, score in scores.items() if not isnan(score)}
    ranks = [
        sum(score >= comparable[target] for score in comparable.values()) for target in targets if target in comparable
    ]
    hits = [rank for rank in ranks if rank <= 3]
    assert metrics["recall@3"] == pytest.approx(len(hits) / len(targets))
    assert metrics["mrr@3"] == pytest.approx(sum(1 / rank for rank in hits) / len(targets))
    assert metrics["ndcg@3"] == pytest.approx(sum(1 / log2(1 + rank) for rank in hits) / len(targets))
    assert metrics["coverage@3"] == len(list(comparable)[:3]) / 8


def test_baselines_return_k_different_items_best_first(dataset: Dataset) -> None:
    session = dataset.item_ids()[:3]
    for name, baseline in BASELINES.items():
        ranking = baseline(dataset, "test").retrieve(session, 15)
        assert len({item.item_id for item in ranking}) == 15, name
        assert [item.score for item in ranking] == sorted((item.score for item in ranking), reverse=True), name
        assert len(baseline(dataset, "test").retrieve(["never seen"], 15)) == 15, name


def test_item_to_item_ranks_neighbours_and_popularity_does_not(dataset: Dataset) -> None:
    cases = list(cases_of(dataset.sessions("test"), together=False))
    recall = {
        name: evaluate(baseline(dataset, "test").retrieve, cases, items=60, ks=[3])["recall@3"]
        for name, baseline in BASELINES.items()
    }
    assert recall["item-to-item"] > 0.75  # the next item of a circle is among the three nearest
    assert recall["popularity"] < 0.2


def test_popularity_in_session_puts_the_sessions_own_items_first(dataset: Dataset) -> None:
    a, b, c = dataset.item_ids()[:3]
    ranking = BASELINES["popularity-in-session"](dataset, "test").retrieve([a, b, b, c], 3)
    assert ranking[0].item_id == b
    assert {item.item_id for item in ranking} == {a, b, c}


def test_a_bundle_answers_a_batch_of_cases_as_it_answers_each_alone(exported: Path, dataset: Dataset) -> None:
    bundle = Bundle.load(exported / "current")
    cases = [*held_out_cases(dataset, "test")[:70], EvaluationCase(["never seen"], ["x"])]
    for exact in (False, True):
        answers = served_by(bundle, exact=exact)(cases, 7)
        for case, answer in zip(cases, answers, strict=True):
            alone = bundle.retrieve(SessionView(case.inputs), Options(7, exact=exact)).items
            assert [item.item_id for item in answer] == [item.item_id for item in alone]
            assert [item.score for item in answer] == pytest.approx([item.score for item in alone], rel=1e-5)


def test_a_sample_is_drawn_at_random_and_in_order(dataset: Dataset) -> None:
    everything, drawn = CaseSample.of(dataset, "test", 0), CaseSample.of(dataset, "test", 40)
    assert len(drawn.cases) == 40
    assert drawn.examples == len(everything.cases) == dataset.info.parts["test"].examples
    assert everything.facts() == {}
    remaining = iter(zip(everything.cases, everything.session_E.tolist(), strict=True))
    pairs = list(zip(drawn.cases, drawn.session_E.tolist(), strict=True))
    assert all(pair in remaining for pair in pairs)  # in order: each is found after the one before
    assert drawn.cases != everything.cases[:40]
    assert CaseSample.of(dataset, "test", 40).cases == drawn.cases
    with pytest.raises(InputError, match=r"--sample 1: draws from one session only"):
        CaseSample.of(dataset, "test", 1)


def test_a_part_with_many_examples_is_sampled_by_default(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not CaseSample.of(dataset, "test").is_drawn
    monkeypatch.setattr(cases_module, "EXACT_UP_TO", 30)
    assert len(CaseSample.of(dataset, "test").cases) == 30


def test_a_report_of_a_sample_says_so_and_has_standard_errors(
    exported: Path, dataset: Dataset, tmp_path: Path, run: Path
) -> None:
    command = ["evaluate", str(exported), "--data", str(dataset.folder), "--sample", "60"]
    report = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    everything = evaluate_bundle(exported, dataset.folder, "test")
    assert report["examples"] == 60
    assert report["examples_of_part"] == everything["examples"]
    assert report["sample"] == f"60 of {everything['examples']} examples, drawn at random (seed 0)"
    assert "standard_error" not in everything
    for metric in ("mrr@20", "ndcg@20"):
        assert 0 < abs(report[metric] - everything[metric]) < 4 * report["standard_error"][metric]
    assert "±" in CliRunner().invoke(cli, command).stdout
    recorded = CliRunner().invoke(cli, [*command, "--run", str(run), "--record", str(tmp_path)])
    assert recorded.exit_code == 0, recorded.output
    (record,) = [json.loads(file.read_text()) for file in tmp_path.glob("*/*.json")]
    assert record["sampled_examples"] == 60
    assert record["standard_error"] == report["standard_error"]


def test_baselines_can_be_evaluated_on_a_sample(dataset: Dataset) -> None:
    command = ["baselines", "--data", str(dataset.folder), "--sample", "50"]
    printed = CliRunner().invoke(cli, command).stdout
    assert "50 of" in printed
    assert "±" in printed
    for metrics in json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout).values():
        assert metrics["examples"] == 50
        assert metrics["standard_error"]["mrr@20"] > 0
