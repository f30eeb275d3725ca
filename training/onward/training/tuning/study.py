"""A study: trials of one recipe with varied values, compared by validation; it can be interrupted and resumed."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from onward.training.atomic_file import write_text
from onward.training.data.dataset import Dataset
from onward.training.errors import Diverged, InputError, disk_faults
from onward.training.folder_lock import is_locked, locked, try_lock, wait_for_lock
from onward.training.interruption import interruption
from onward.training.recipe import Recipe
from onward.training.run_folder import SELECTION, best_validation, checkpoint_of, read_run
from onward.training.trainer import train
from onward.training.tuning.search_space import Parameter, SearchSpace, recipe_value, with_values

STUDY, BEST = "study.db", "best.toml"
STUDY_LOCK = "study.lock"
"""The file whose lock a process holds while it reads the study to claim a trial, or stores one."""
NUMBER = "number"
"""The user attribute of a stored trial that holds its number; Optuna's own is the order in which trials finished."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class TrialOutcome:
    """A finished trial."""

    number: int
    state: str
    """complete, pruned, or fail (its values make no valid recipe, or its training diverged)."""
    validation: float | None
    """Best value of the recipe's validation metric, a fraction; None if the trial failed."""
    epochs: int
    values: dict[str, Any]
    """Values by dotted key of the recipe."""


@dataclass(frozen=True)
class StudyOutcome:
    """The results of a study so far."""

    metric: str
    trials: tuple[TrialOutcome, ...]
    best: TrialOutcome | None
    """The best complete trial."""
    best_recipe: Path | None
    interrupted: bool
    running_elsewhere: int
    """Number of trials that other processes are running."""


def tune(
    recipe: Recipe,
    specs: Mapping[str, str],
    data: Path,
    out: Path,
    *,
    trials: int,
    timeout_s: float | None = None,
    epochs: int | None = None,
    seed: int = 1,
    device_name: str = "auto",
    join: bool = False,
    on_trial: Callable[[str], object] = lambda line: None,
) -> StudyOutcome:
    """Run trials until the study in `out` has `trials` finished ones, and write the best recipe there.

    A trial is a training without a refit in `out/trial-N`. It is pruned after an epoch in which its validation is below
    the median of the earlier trials. The same call resumes an interrupted study, with the result of an uninterrupted
    one. Several processes may share a study: each runs trials that no other runs, and it ends when none is left for it.
    The test part is never read.

    Args:
        recipe: the recipe to vary; its own values are the first trial.
        specs: variations by dotted key, in the syntax of `SearchSpace.of`.
        data: the dataset.
        out: the folder of the study.
        trials: number of finished trials, those of earlier calls included.
        timeout_s: no trial begins later than this after the call.
        epochs: maximum number of epochs of a trial, instead of the recipe's; the best recipe keeps it.
        seed: seed of the search and of every training.
        device_name: cpu, cuda or auto.
        join: run trials beside the process that works on the study.
        on_trial: called with a line for each trial that begins, whose values make no valid recipe, or that diverges.

    Raises:
        InputError: a key or spec is unusable, the data set has no validation part, `out` holds another study, or
            without `join`, another process works on it.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    dataset = Dataset.open(data)
    if "validation" not in dataset.info.parts:
        raise InputError(f"{data}: has no validation part; prepare it with one")
    if epochs is not None and "training.epochs" in specs:
        raise InputError("--epochs and --vary training.epochs: give one of them")
    if epochs is not None:
        recipe = Recipe.parse(with_values(recipe.text, {"training.epochs": epochs}), f"{recipe.name}.toml")
    space = SearchSpace.of(recipe, specs)
    facts = {"recipe": recipe.text, "space": dict(specs), "data": dataset.info.fingerprint, "seed": seed}
    out.mkdir(parents=True, exist_ok=True)
    alone = locked(out, "add --join to run trials beside it, or name another folder")
    with (
        disk_faults(out),
        nullcontext() if join else alone,
        interruption() as interrupted,
        _opened(out, facts, recipe) as stored,
    ):
        runner = TrialRunner(stored, space, data, out, seed, device_name, on_trial)
        ended = True
        while ended and (deadline is None or time.monotonic() < deadline):
            with runner.claimed(trials) as claim:
                if claim is None:
                    break
                ended = runner.run(claim) and not interrupted
        return runner.outcome(trials, interrupted=not ended)


@contextmanager
def _opened(out: Path, facts: dict[str, Any], recipe: Recipe) -> Iterator[optuna.Study]:
    """Open the study in `out`, or create it. Raises InputError if it is damaged, or of other facts."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with wait_for_lock(out / STUDY_LOCK):
        try:
            with disk_faults(out):
                storage = RDBStorage(f"sqlite:///{out / STUDY}")
                study = optuna.create_study(
                    study_name="study", storage=storage, direction="maximize", load_if_exists=True
                )
                if not study.user_attrs:
                    for name, value in facts.items():
                        study.set_user_attr(name, value)
        except (DatabaseError, StorageInternalError) as error:
            raise InputError(f"{out / STUDY}: is damaged; name another folder, or remove this one") from error
    try:
        for name, value in facts.items():
            stored = study.user_attrs.get(name)
            same = recipe.has_settings_of(str(stored)) if name == "recipe" else stored == value
            if not same:
                raise InputError(f"{out}: holds a study of another {name}; name another folder")
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that the study has stored, by the number of its folder."""

    number: int
    trial: FrozenTrial


@dataclass(frozen=True)
class Claim:
    """The right of this process to run a trial, as long as it holds its lock."""

    number: int
    finished: tuple[FinishedTrial, ...]
    """The trials that had finished when the claim was made, from which its values are sampled."""


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study one after another, beside other processes that do the same.

    A trial belongs to the process that holds the lock `trial-N.lock`. It is sampled, reported and pruned in memory, and
    stored once it has finished. A trial that was begun before has the values of the run in its folder, and goes on from
    the checkpoint there.
    """

    stored: optuna.Study
    space: SearchSpace
    data: Path
    out: Path
    seed: int
    device_name: str
    on_trial: Callable[[str], object]

    @property
    def metric(self) -> str:
        """The validation metric that trials are compared by."""
        return self.space.recipe.training.validation_metric

    @contextmanager
    def claimed(self, trials: int) -> Iterator[Claim | None]:
        """Claim the first of `trials` trials that has not finished and that no other process runs, if there is one."""
        claim, lock = None, None
        with wait_for_lock(self.out / STUDY_LOCK):
            finished = self._finished()
            for number in unfinished(finished, trials):
                if (lock := try_lock(self._claim_file(number))) is not None:
                    claim = Claim(number, finished)
                    break
        try:
            yield claim
        finally:
            if lock is not None:
                os.close(lock)

    def run(self, claim: Claim) -> bool:
        """Run a trial; return False if it was interrupted, to be resumed later."""
        trial = self._sampled(claim)
        name = f"trial {claim.number}"
        self.on_trial(f"{name}: {', '.join(f'{key} {value}' for key, value in trial.params.items())}")
        try:
            recipe = Recipe.parse(self.space.text(trial.params, refit=False), f"{self.space.recipe.name}.toml")
        except InputError as error:
            self.on_trial(f"{name}: left out: {error}")
            self._finish(trial, claim, state=TrialState.FAIL)
            return True
        folder, pruned = self._folder(claim.number), False

        def report_epoch(line: dict[str, Any]) -> bool:
            nonlocal pruned
            trial.report(line["validation"][self.metric], line["epoch"])
            pruned = trial.should_prune()
            return not pruned

        resume = (folder / "run.json").exists()
        if resume and not recipe.has_settings_of(read_run(folder)["recipe"]):
            raise InputError(f"{folder}: was begun with other values; remove this folder to begin the trial again")
        try:
            ended = train(
                recipe,
                self.data,
                folder,
                seed=self.seed,
                device_name=self.device_name,
                resume=resume,
                on_epoch=report_epoch,
            )
        except Diverged as error:
            self.on_trial(f"{name}: failed: {error}")
            self._finish(trial, claim, state=TrialState.FAIL)
            return True
        if pruned:
            self._finish(trial, claim, state=TrialState.PRUNED)
        elif ended:
            self._finish(trial, claim, best_validation(folder)[self.metric])
        if pruned or ended:
            checkpoint_of(folder, SELECTION).unlink(missing_ok=True)
        return ended

    def outcome(self, trials: int, *, interrupted: bool) -> StudyOutcome:
        """Return the results of all finished trials."""
        with wait_for_lock(self.out / STUDY_LOCK):
            finished = self._finished()
            running = sum(is_locked(self._claim_file(number)) for number in unfinished(finished, trials))
        outcomes = tuple(_outcome_of(trial) for trial in finished)
        complete = [trial for trial in outcomes if trial.state == "complete"]
        best = max(complete, key=lambda trial: trial.validation or 0.0, default=None)
        return StudyOutcome(
            metric=self.metric,
            trials=outcomes,
            best=best,
            best_recipe=None if best is None else self.out / BEST,
            interrupted=interrupted,
            running_elsewhere=running,
        )

    def _finished(self) -> tuple[FinishedTrial, ...]:
        """Return the finished trials, by number; for those of earlier versions that is their order."""
        stored = self.stored.get_trials(deepcopy=False, states=FINISHED)
        numbered = (FinishedTrial(trial.user_attrs.get(NUMBER, place), trial) for place, trial in enumerate(stored))
        return tuple(sorted(numbered, key=lambda trial: trial.number))

    def _sampled(self, claim: Claim) -> Trial:
        """Return a trial in memory, with the values of the run in its folder, or else sampled by its number."""
        study = optuna.create_study(direction="maximize", pruner=MedianPruner())
        study.add_trials([finished.trial for finished in claim.finished])
        if parameters := self._begun_parameters(claim.number):
            study.enqueue_trial(parameters)
        seed = np.random.SeedSequence([self.seed, claim.number]).generate_state(1)[0]
        study.sampler = TPESampler(seed=int(seed))
        trial = study.ask({**self.space.variations})
        trial.set_user_attr(NUMBER, claim.number)
        return trial

    def _begun_parameters(self, number: int) -> dict[str, Parameter] | None:
        folder = self._folder(number)
        if (folder / "run.json").exists():
            return self.space.parameters_of(read_run(folder)["recipe"])
        return self.space.parameters_of(self.space.recipe.text) if number == 0 else None

    def _finish(
        self, trial: Trial, claim: Claim, validation: float | None = None, state: TrialState | None = None
    ) -> None:
        """Write the best recipe, then store the trial: a stored trial is never resumed."""
        ended = FinishedTrial(claim.number, trial.study.tell(trial, validation, state))
        with wait_for_lock(self.out / STUDY_LOCK):
            if ended.trial.state is TrialState.COMPLETE:
                self._write_best([*self._finished(), ended])
            self.stored.add_trial(ended.trial)
            self._claim_file(claim.number).unlink()

    def _write_best(self, trials: Sequence[FinishedTrial]) -> None:
        best = best_of(trials)
        data = f"data {read_run(self._folder(best.number))['data_fingerprint'][:12]}"
        comment = (
            f"# Of {len(trials)} trials on {Dataset.open(self.data).name} the best: trial {best.number}, "
            f"validation {self.metric} {best.trial.value:.4f}, seed {self.seed}, {data}.\n"
        )
        write_text(self.out / BEST, comment + self.space.text(best.trial.params))

    def _folder(self, number: int) -> Path:
        return self.out / f"trial-{number}"

    def _claim_file(self, number: int) -> Path:
        return self.out / f"trial-{number}.lock"


def unfinished(finished: Sequence[FinishedTrial], trials: int) -> list[int]:
    """Return the numbers of the first `trials` trials that have not finished."""
    numbers = {trial.number for trial in finished}
    return [number for number in range(trials) if number not in numbers]


def best_of(trials: Sequence[FinishedTrial]) -> FinishedTrial:
    """Return the complete trial with the best validation; of equal ones the first."""
    complete = [trial for trial in trials if trial.trial.state is TrialState.COMPLETE]
    return min(complete, key=lambda trial: (-(trial.trial.value or 0.0), trial.number))


def _outcome_of(finished: FinishedTrial) -> TrialOutcome:
    trial, reported = finished.trial, finished.trial.intermediate_values
    return TrialOutcome(
        number=finished.number,
        state=trial.state.name.lower(),
        validation=None if trial.state is TrialState.FAIL else max(reported.values(), default=None),
        epochs=max(reported, default=0),
        values={key: recipe_value(parameter) for key, parameter in trial.params.items()},
    )
