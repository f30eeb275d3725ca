"""A fit compares candidates, publishes the best one if it passes the gate, and goes on after an interruption."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from onward.bundle import Bundle, Options, SessionView, current_digest, staged_bundles
from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare_options import SplitKind
from onward.training.errors import InputError
from onward.training.evaluation import gate_rules
from onward.training.evaluation.evaluation import evaluate_baselines
from onward.training.fitting import fit as fit_module
from onward.training.fitting.candidates import Candidate, candidates_for
from onward.training.fitting.choice import choose
from onward.training.fitting.compared_examples import ComparedExamples, means
from onward.training.fitting.fit import fit
from onward.training.fitting.records import FitRecord
from onward.training.fitting.trials import Interrupted
from onward.training.recipe import Recipe
from onward.training.trainer import Fit
from onward.training.tuning.search_space import with_values
from tests.training.conftest import walks

pytestmark = pytest.mark.timeout(120)
FLOOR = ("popularity", "item-to-item")


@pytest.fixture(autouse=True, scope="module")
def few_candidates(recipe: Recipe) -> Iterator[None]:
    """Nearest sessions and two small networks, with a floor that is quick to measure."""
    text = recipe.text.replace("exclude_seen = false", 'exclude_seen = "auto"')
    short = with_values(text, {"training.epochs": 3, "training.patience": 3})
    poor = with_values(text, {"training.epochs": 1, "training.patience": 1, "training.learning_rate": 1e-6})
    candidates = [
        Candidate("knn", Recipe.load(Path("knn"))),
        Candidate("srgnn", Recipe.parse(short, "srgnn.toml")),
        Candidate("srgnn-poor", Recipe.parse(poor, "srgnn-poor.toml")),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit_module, "candidates_for", lambda dataset: candidates)
        patched.setattr(fit_module, "FLOOR", FLOOR)
        patched.setitem(gate_rules.SHIPPED["accuracy"], "floor", ["popularity"])
        yield


class Fitted(NamedTuple):
    """A fit that was not disturbed."""

    folder: Path
    bundles: Path
    record: FitRecord
    output: str


@pytest.fixture(scope="module")
def fitted(few_candidates: None, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit of a log, by the command."""
    folder = tmp_path_factory.mktemp("fitted")
    log, bundles, out = folder / "events.parquet", folder / "bundles", folder / "fit"
    walks(500, seed=9).write_parquet(log)
    arguments = ["fit", str(log), "--bundles", str(bundles), "--out", str(out), "--budget", "1h", "--device", "cpu"]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 0, outcome.output
    return Fitted(out, bundles, FitRecord.read(out), outcome.output)


@pytest.fixture
def fit_again(fitted: Fitted, tmp_path: Path) -> Callable[..., FitRecord]:
    """Fit the dataset of `fitted` in folders of the test."""

    def run(**options: Any) -> FitRecord:
        data, out = fitted.folder / "dataset", tmp_path / "fit"
        return fit(data, tmp_path / "bundles", out, budget_s=3_600, device_name="cpu", **options)

    return run


def test_one_command_turns_a_log_into_a_live_bundle(fitted: Fitted) -> None:
    record = fitted.record
    assert record.live
    assert current_digest(fitted.bundles) == record.bundle
    assert record.choice is not None
    assert record.gate is not None
    assert record.gate.passed
    assert {trial.candidate for trial in record.trials} == {"knn", "srgnn", "srgnn-poor"}
    assert list(record.floor) == list(FLOOR)
    best = max(of.metrics["ndcg@20"] for of in record.choice.compared)
    assert record.choice.compared[record.choice.best].metrics["ndcg@20"] == best
    assert record.choice.winner.name != "srgnn-poor"
    for text in ("by the size of the log, ", "chosen: ", str(record.bundle)):
        assert text in fitted.output
    answer = Bundle.load(fitted.bundles / "current").retrieve(SessionView(["item-1-1", "item-1-2"]), Options(5))
    assert "item-1-3" in answer.items.item_ids


def test_the_page_shows_what_was_tried_and_needs_no_internet(fitted: Fitted) -> None:
    record, page = fitted.record, (fitted.folder / "fit.html").read_text()
    assert record.choice is not None
    for text in (
        record.choice.winner.name,
        "srgnn-poor",
        "item-to-item",
        str(record.bundle)[:12],
        "<svg",
        "after 5 to 9 items",
        "Gini",
    ):
        assert text in page
    assert not re.search(r"https?://|<script|src=", page)


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_and_chooses_what_an_undisturbed_one_does(
    fit_again: Callable[..., FitRecord], fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = Fit._train_epoch

    def interrupt(of_fit: Fit, batches: Any, *others: Any) -> None:
        if batches:
            signal.raise_signal(signal.SIGTERM)
        train_epoch(of_fit, batches, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Fit, "_train_epoch", interrupt)
        with pytest.raises(Interrupted):
            fit_again()
    assert [trial.candidate for trial in FitRecord.read(tmp_path / "fit").trials] == ["knn"]
    with pytest.raises(InputError, match="holds a fit already; add --resume"):
        fit_again()
    with pytest.raises(InputError, match="begun with another seed"):
        fit_again(seed=2, resume=True)
    resumed = fit_again(resume=True)
    assert resumed.choice == fitted.record.choice
    assert [trial.curve for trial in resumed.trials] == [trial.curve for trial in fitted.record.trials]
    assert resumed.live


@pytest.mark.slow
def test_a_joined_choice_that_does_not_pass_stays_staged_unless_forced(
    fit_again: Callable[..., FitRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_joined(contenders: Any, session_E: Any) -> Any:
        choice = choose(contenders, session_E)
        joined = next(place for place, of in enumerate(choice.compared) if of.members == ("srgnn", "knn"))
        return choice.model_copy(update={"chosen": joined})

    monkeypatch.setattr(fit_module, "choose", choose_joined)
    monkeypatch.setattr(fit_module, "gate_fault", lambda bundles, digest: "recall@20 is 0.1 below live")
    bundles, page = tmp_path / "bundles", tmp_path / "fit" / "fit.html"
    record = fit_again()
    assert (record.live, record.gate_fault) == (False, "recall@20 is 0.1 below live")
    assert (current_digest(bundles), staged_bundles(bundles)) == (None, [record.bundle])
    assert "staged, not live: recall@20 is 0.1 below live" in page.read_text()
    manifest = Bundle.load(bundles / str(record.bundle)).manifest
    assert manifest.model == "srgnn+knn"
    assert record.choice is not None
    assert manifest.nearest_sessions is not None
    assert manifest.nearest_sessions.weight == record.choice.winner.session_weight
    forced = fit_again(resume=True, force=True)
    assert (forced.live, forced.bundle, current_digest(bundles)) == (True, record.bundle, record.bundle)
    assert "by <code>--force</code>, although recall@20" in page.read_text()


def test_the_compared_figures_are_those_of_validation(dataset: Dataset) -> None:
    examples = ComparedExamples(dataset, exclude_seen="last")
    floor = means(examples.of_baseline("item-to-item"))
    expected = evaluate_baselines(dataset.folder, "validation", hide_last=True)["item-to-item"]
    assert floor == pytest.approx({name: expected[name] for name in floor})


def test_a_damaged_record_is_said(fit_again: Callable[..., FitRecord], tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    with pytest.raises(InputError, match=r"holds no fit \(fit\.json is missing\)"):
        fit_again(resume=True)
    (tmp_path / "fit" / "fit.json").write_text("{")
    with pytest.raises(InputError, match=r"fit\.json: is damaged"):
        fit_again(resume=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bundles", "bundles"], "give files of events, or --data"),
        (["log.csv", "--data", "data", "--bundles", "bundles"], "give files of events, or --data"),
        (["--data", "data", "--items", "items.csv", "--bundles", "bundles"], "--items belongs to events"),
        (["--data", "data", "--bundles", "bundles", "--budget", "soon"], "--budget 'soon': write a number and"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], reason: str) -> None:
    outcome = CliRunner().invoke(cli, ["fit", *arguments])
    assert isinstance(outcome.exception, InputError)
    assert reason in str(outcome.exception)


@pytest.mark.parametrize("split", ["sessions", "histories"])
@pytest.mark.parametrize("examples", [1_000, 100_000, 1_000_000])
def test_candidates_are_valid_recipes_for_any_size(dataset: Dataset, split: str, examples: int) -> None:
    train = dataset.info.parts["train"].model_copy(update={"examples": examples})
    kind = SplitKind.TEMPORAL if split == "sessions" else SplitKind.LEAVE_ONE_OUT
    options = dataset.info.options.model_copy(update={"split": kind})
    info = dataset.info.model_copy(update={"parts": {**dataset.info.parts, "train": train}, "options": options})
    candidates = candidates_for(Dataset(dataset.folder, info))
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    for candidate in candidates:
        training = candidate.recipe.training
        assert training.patience == training.epochs
        assert candidate.recipe.serving.exclude_seen == "auto"


def test_a_training_that_takes_much_longer_than_planned_ends_with_its_epoch(
    fit_again: Callable[..., FitRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chosen(Exception):
        pass

    def choose_nothing(contenders: Any, session_E: Any) -> Any:
        raise Chosen

    notes: list[str] = []
    monkeypatch.setattr("onward.training.fitting.trials.FEWEST_SECONDS", 0)
    monkeypatch.setattr("onward.training.fitting.trials.OVERRUN", 0)
    monkeypatch.setattr(fit_module, "choose", choose_nothing)
    with pytest.raises(Chosen):
        fit_again(on_note=notes.append)
    assert any("srgnn (rung 2)" in note and note.endswith(", ended after 1 of 3 epochs") for note in notes)
