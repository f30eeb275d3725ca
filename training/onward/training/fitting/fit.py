"""Fit the best recommender for a dataset within a time budget, and publish it if it passes the gate.

The test part is asked once, by the gate; every decision before that is made on the validation part. The folder of a fit
holds its record (`fit.json`), its page (`fit.html`), a run for each training below `trials`, and those that were
exported below `final`. The record is written after each step, so that an interrupted fit goes on where it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from onward.bundle import Author, Retention, activate, gate_fault
from onward.bundle.releases import DEFAULT_RETENTION
from onward.bundle.search.retrieval import ExcludeSeen
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError, disk_faults
from onward.training.evaluation.evaluation import LEFT_OUT
from onward.training.evaluation.gate import FLOOR, gate
from onward.training.export.export import export
from onward.training.fitting.candidates import Candidate, adapted_training, candidates_for
from onward.training.fitting.choice import choose
from onward.training.fitting.compared_examples import ComparedExamples, means
from onward.training.fitting.contenders import contenders
from onward.training.fitting.costs import expected_seconds
from onward.training.fitting.fit_page import write_page
from onward.training.fitting.journal import Journal
from onward.training.fitting.plan import plan_for
from onward.training.fitting.plan_text import choice_lines, figures, plan_lines
from onward.training.fitting.records import METRIC, RECORD, Choice, FitRecord
from onward.training.fitting.trials import Trials, with_epochs
from onward.training.folder_lock import locked
from onward.training.recipe import Recipe

PAGE = "fit.html"


def fit(
    data: Path,
    bundles: Path,
    out: Path,
    *,
    budget_s: float,
    adapted: Sequence[str] = (),
    seed: int = 1,
    device_name: str = "auto",
    resume: bool = False,
    force: bool = False,
    reason: str | None = None,
    retention: Retention = DEFAULT_RETENTION,
    on_step: Callable[[str], object] = lambda step: None,
    on_note: Callable[[str], object] = lambda note: None,
) -> FitRecord:
    """Try what the budget allows, choose on validation, fit the choice to all sessions, and publish it.

    The bundle becomes live if it passes the gate: it must not be below the floor nor the live bundle.

    Args:
        data: the dataset; it needs a validation part.
        bundles: the folder of bundles.
        out: the folder of the fit.
        budget_s: seconds that the whole may take. Trainings are planned with it, by measured speeds; it is no limit to
            the second.
        adapted: lines about defaults of the preparation that follow the data, for the page.
        seed: equal seeds and plans give equal choices on one machine's CPU.
        device_name: cpu, cuda or auto.
        resume: go on with the fit in `out`, by its plan.
        force: make the bundle live although it does not pass the gate.
        reason: why, for the record of the bundle.
        retention: which earlier bundles are kept.
        on_step: called with a description of each step.
        on_note: called with a line for each result.

    Raises:
        InputError: the dataset has no validation part, `out` holds another fit, or all trainings diverged.
        Interrupted: SIGINT or SIGTERM ended a training.
    """
    dataset = Dataset.open(data)
    if "validation" not in dataset.info.parts:
        raise InputError(f"{data}: has no validation part, by which candidates are compared; prepare it with one")
    out.mkdir(parents=True, exist_ok=True)
    with disk_faults(out), locked(out, "wait until it has ended, or name another folder"):
        record = _resumed(dataset, out, seed) if resume else _begun(dataset, out, seed, adapted)
        journal = Journal(out, record.model_copy(update={"budget_s": budget_s}), on_step, on_note)
        candidates = {candidate.name: candidate for candidate in candidates_for(dataset)}
        exclude_seen = next(iter(candidates.values())).recipe.serving.exclude_seen_in(dataset)
        examples = ComparedExamples(dataset, exclude_seen)
        trials = Trials(dataset, candidates, examples, journal, device_name)
        _measure_floor(examples, exclude_seen, journal)
        _make_plan(dataset, candidates, device_name, journal)
        trials.run()
        choice = _choose(trials)
        _fit_to_all(choice, trials)
        _publish(choice, trials, bundles, reason, retention, force=force)
        write_page(journal.record, out / PAGE)
        return journal.record


def _begun(dataset: Dataset, out: Path, seed: int, adapted: Sequence[str]) -> FitRecord:
    if (out / RECORD).exists():
        raise InputError(f"{out}: holds a fit already; add --resume to go on with it, or name another folder")
    return FitRecord(
        data=dataset.source,
        data_fingerprint=dataset.info.fingerprint,
        seed=seed,
        budget_s=0,
        adapted=(*adapted, *map(str, adapted_training(dataset))),
    )


def _resumed(dataset: Dataset, out: Path, seed: int) -> FitRecord:
    record = FitRecord.read(out)
    for what, is_same in (
        ("data set", record.data_fingerprint == dataset.info.fingerprint),
        ("seed", record.seed == seed),
    ):
        if not is_same:
            raise InputError(f"{out}: this fit was begun with another {what}; begin one in another folder")
    return record


def _measure_floor(examples: ComparedExamples, exclude_seen: ExcludeSeen, journal: Journal) -> None:
    if journal.record.floor:
        return
    for line in journal.record.adapted:
        journal.on_note(f"adapted to the data: {line}")
    left_out = LEFT_OUT[exclude_seen]
    journal.on_note(f"left out of answers: {left_out}; compared by {METRIC} on {len(examples):,} validation examples")
    floor = {}
    for name in FLOOR:
        journal.on_step(f"measuring the floor: {name}")
        floor[name] = means(examples.of_baseline(name))
        journal.on_note(f"floor, {name}: {figures(floor[name])}")
    journal.save(floor=floor, examples=len(examples), left_out=left_out)


def _make_plan(dataset: Dataset, candidates: dict[str, Candidate], device_name: str, journal: Journal) -> None:
    if journal.record.plan is not None:
        return
    seconds: dict[str, float] = {}
    for candidate in candidates.values():
        model = candidate.recipe.model
        if model not in seconds:
            journal.on_step(f"measuring the speed of {model}")
            seconds[model] = expected_seconds(candidate.recipe, dataset, device_name)
    networks = [name for name, candidate in candidates.items() if candidate.recipe.has_steps]
    costs = {name: seconds[candidate.recipe.model] for name, candidate in candidates.items()}
    plan = plan_for(costs, networks, dataset.info.parts["train"].examples, journal.record.budget_s - journal.spent_s)
    journal.save(plan=plan)
    for line in plan_lines(plan):
        journal.on_note(line)


def _choose(trials: Trials) -> Choice:
    journal = trials.journal
    choice = journal.record.choice
    if choice is None:
        choice = choose(list(contenders(trials)), trials.examples.session_E)
        journal.save(choice=choice)
    for line in choice_lines(choice, journal.record.floor):
        journal.on_note(line)
    return choice


def _fit_to_all(choice: Choice, trials: Trials) -> None:
    """Fit the chosen candidates to training and validation sessions."""
    journal = trials.journal
    for member in choice.winner.members:
        folder = journal.out / "final" / member
        if str(folder) in journal.record.final_runs:
            continue
        recipe, epochs = _final_recipe(member, trials)
        journal.on_step(f"fitting {member} to all sessions")
        trials.train(recipe, trials.dataset.folder, folder, refit_epochs=epochs)
        journal.save(final_runs=(*journal.record.final_runs, str(folder)))


def _final_recipe(member: str, trials: Trials) -> tuple[Recipe, int]:
    """Return the recipe of a candidate for the last fit, and its number of epochs."""
    recipe, trial = trials.candidates[member].recipe, trials.best_of(member)
    if not recipe.has_steps:
        return recipe, 1
    rung = trials.plan.rungs[trial.rung - 1]
    if rung.share == 1:
        return with_epochs(recipe, rung.epochs), trial.best_epoch
    recipe = with_epochs(recipe, trials.plan.final_epochs)
    return recipe, recipe.training.epochs


def _publish(
    choice: Choice, trials: Trials, bundles: Path, reason: str | None, retention: Retention, *, force: bool
) -> None:
    journal, data = trials.journal, trials.dataset.folder
    digest = journal.record.bundle
    if digest is None:
        digest = export(
            [Path(run) for run in journal.record.final_runs],
            bundles,
            data=data,
            staged=True,
            session_weight=choice.winner.session_weight,
            retention=retention,
            on_step=journal.on_step,
            on_note=journal.on_note,
        )
        journal.save(bundle=digest)
    journal.on_step("comparing the bundle with the floor and the live one on test sessions")
    try:
        report = gate(bundles, digest, data)
        fault = gate_fault(bundles, digest)
    except InputError as error:
        report, fault = None, str(error)
    if fault is None or force:
        activate(bundles, digest, author=Author(reason=reason), overridden=fault, retention=retention)
    journal.save(gate=report, gate_fault=fault, live=fault is None or force)
