"""A study: trials of one recipe with varied values, compared by validation; it can be interrupted and resumed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from onward.training.data.dataset import Dataset
from onward.training.errors import Diverged, InputError
from onward.training.interruption import interruption
from onward.training.recipe import Recipe
from onward.training.run_folder import SELECTION, best_validation, checkpoint_of, read_run
from onward.training.trainer import train
from onward.training.tuning.search_space import SearchSpace, recipe_value, with_values

STUDY, BEST = "study.db", "best.toml"
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
    on_trial: Callable[[str], object] = lambda line: None,
) -> StudyOutcome:
    """Run trials until the study in `out` has `trials` finished ones, and write the best recipe there.

    A trial is a training without a refit in `out/trial-N`. It is pruned after an epoch in which its validation is below
    the median of the earlier trials. The same call resumes an interrupted study, with the result of an uninterrupted
    one. The test part is never read.

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
        on_trial: called with a line for each trial that begins, whose values make no valid recipe, or that diverges.

    Raises:
        InputError: a key or spec is unusable, the data set has no validation part, or `out` holds another study.
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
    with interruption() as interrupted, _opened(out, facts, recipe) as stored:
        runner = TrialRunner(stored, _in_memory(stored), space, data, out, seed, device_name, on_trial)
        running = True
        while running and len(runner.finished()) < trials and (deadline is None or time.monotonic() < deadline):
            running = runner.try_next() and not interrupted
        return runner.outcome(interrupted=not running)


@contextmanager
def _opened(out: Path, facts: dict[str, Any], recipe: Recipe) -> Iterator[optuna.Study]:
    """Open the study in `out`, or create it. Raises InputError if it is damaged, or of other facts."""
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = RDBStorage(f"sqlite:///{out / STUDY}")
    except DatabaseError as error:
        raise InputError(f"{out / STUDY}: is damaged; name another folder, or remove this one") from error
    try:
        study = optuna.create_study(study_name="study", storage=storage, direction="maximize", load_if_exists=True)
        if not study.user_attrs:
            for name, value in facts.items():
                study.set_user_attr(name, value)
        for name, value in facts.items():
            stored = study.user_attrs.get(name)
            same = recipe.has_settings_of(str(stored)) if name == "recipe" else stored == value
            if not same:
                raise InputError(f"{out}: holds a study of another {name}; name another folder")
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _in_memory(stored: optuna.Study) -> optuna.Study:
    """Copy the finished trials; their numbers are those of their folders."""
    study = optuna.create_study(direction="maximize", pruner=MedianPruner())
    study.add_trials(stored.get_trials(deepcopy=False, states=FINISHED))
    return study


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study one after another.

    A trial is sampled, reported and pruned in memory and stored once it has finished. An interrupted trial is therefore
    sampled again, with the same values, and goes on from the checkpoint in its folder.
    """

    stored: optuna.Study
    study: optuna.Study
    """The copy in memory."""
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

    def finished(self) -> list[FrozenTrial]:
        """Return the finished trials."""
        return self.study.get_trials(deepcopy=False, states=FINISHED)

    def try_next(self) -> bool:
        """Run one more trial; return False if it was interrupted, to be resumed later."""
        trial = self._next()
        self.on_trial(f"trial {trial.number}: {', '.join(f'{key} {value}' for key, value in trial.params.items())}")
        try:
            recipe = Recipe.parse(self.space.text(trial.params, refit=False), f"{self.space.recipe.name}.toml")
        except InputError as error:
            self.on_trial(f"trial {trial.number}: left out: {error}")
            self._finish(trial, state=TrialState.FAIL)
            return True
        folder, pruned = self._folder(trial.number), False

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
            self.on_trial(f"trial {trial.number}: failed: {error}")
            self._finish(trial, state=TrialState.FAIL)
            return True
        if pruned:
            self._finish(trial, state=TrialState.PRUNED)
        elif ended:
            self._finish(trial, best_validation(folder)[self.metric])
        if pruned or ended:
            checkpoint_of(folder, SELECTION).unlink(missing_ok=True)
        return ended

    def outcome(self, *, interrupted: bool) -> StudyOutcome:
        """Return the results of all finished trials."""
        trials = tuple(self._outcome_of(trial) for trial in self.finished())
        complete = [trial for trial in trials if trial.state == "complete"]
        best = max(complete, key=lambda trial: trial.validation or 0.0, default=None)
        return StudyOutcome(
            metric=self.metric,
            trials=trials,
            best=best,
            best_recipe=None if best is None else self.out / BEST,
            interrupted=interrupted,
        )

    def _next(self) -> Trial:
        """Sample the next trial, with a seed that depends on its number only; the first one has the recipe's values."""
        number = len(self.finished())
        if number == 0 and (parameters := self.space.recipe_parameters()):
            self.study.enqueue_trial(parameters)
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1)[0]
        self.study.sampler = TPESampler(seed=int(seed))
        return self.study.ask({**self.space.variations})

    def _finish(self, trial: Trial, validation: float | None = None, state: TrialState | None = None) -> None:
        """Write the best recipe, then store the trial: a stored trial is never resumed."""
        finished = self.study.tell(trial, validation, state)
        if finished.state is TrialState.COMPLETE:
            self._write_best()
        self.stored.add_trial(finished)

    def _write_best(self) -> None:
        best = self.study.best_trial
        facts = read_run(self._folder(best.number))
        comment = (
            f"# Of {len(self.finished())} trials on {self.data.resolve().name} the best: trial {best.number}, "
            f"validation {self.metric} {best.value:.4f}, seed {self.seed}, data {facts['data_fingerprint'][:12]}.\n"
        )
        (self.out / BEST).write_text(comment + self.space.text(best.params), encoding="utf-8")

    def _outcome_of(self, trial: FrozenTrial) -> TrialOutcome:
        reported = trial.intermediate_values
        return TrialOutcome(
            number=trial.number,
            state=trial.state.name.lower(),
            validation=None if trial.state is TrialState.FAIL else max(reported.values(), default=None),
            epochs=max(reported, default=0),
            values={key: recipe_value(parameter) for key, parameter in trial.params.items()},
        )

    def _folder(self, number: int) -> Path:
        return self.out / f"trial-{number}"
