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
from onward.training.errors import InputError
from onward.training.interruption import interruption
from onward.training.recipe import Recipe
from onward.training.run_folder import SELECTION, best_validation, checkpoint_of, read_run
from onward.training.trainer import train
from onward.training.tuning.search_space import SearchSpace, with_values

STUDY, BEST = "study.db", "best.toml"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class TrialOutcome:
    """A finished trial."""

    number: int
    state: str
    """complete, pruned, or fail (its values do not make a valid recipe)."""
    validation: float | None
    """Best value of the recipe's validation metric, a fraction."""
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
        on_trial: called with a line for each trial that begins, or whose values make no valid recipe.

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
    with interruption() as interrupted, _opened(out, facts, space) as study:
        runner = TrialRunner(study, space, data, out, seed, device_name, on_trial)
        running = True
        while running and runner.finished() < trials and (deadline is None or time.monotonic() < deadline):
            running = runner.try_next() and not interrupted
        return runner.outcome(interrupted=not running)


@contextmanager
def _opened(out: Path, facts: dict[str, Any], space: SearchSpace) -> Iterator[optuna.Study]:
    """Open the study in `out`, or create it with the recipe's own values as its first trial."""
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = RDBStorage(f"sqlite:///{out / STUDY}")
    except DatabaseError as error:
        raise InputError(f"{out / STUDY}: is damaged; name another folder, or remove this one") from error
    try:
        study = optuna.create_study(
            study_name="study", storage=storage, direction="maximize", pruner=MedianPruner(), load_if_exists=True
        )
        if not study.user_attrs:
            for name, value in facts.items():
                study.set_user_attr(name, value)
            if parameters := space.recipe_parameters():
                study.enqueue_trial(parameters)
        for name, value in facts.items():
            stored = study.user_attrs.get(name)
            same = space.recipe.has_settings_of(str(stored)) if name == "recipe" else stored == value
            if not same:
                raise InputError(f"{out}: holds a study of another {name}; name another folder")
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study one after another."""

    study: optuna.Study
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

    def finished(self) -> int:
        """Return the number of finished trials."""
        return len(self._trials(FINISHED))

    def try_next(self) -> bool:
        """Run one more trial; return False if it was interrupted, to be resumed later."""
        trial = self._next()
        self.on_trial(f"trial {trial.number}: {', '.join(f'{key} {value}' for key, value in trial.params.items())}")
        try:
            recipe = Recipe.parse(self.space.text(trial.params, refit=False), f"{self.space.recipe.name}.toml")
        except InputError as error:
            self.on_trial(f"trial {trial.number}: left out: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        folder, pruned = self._folder(trial.number), False
        reported = self.study.trials[trial.number].intermediate_values

        def report_epoch(line: dict[str, Any]) -> bool:
            nonlocal pruned
            if line["epoch"] not in reported:  # resumed, the training may ask about its last epoch again
                trial.report(line["validation"][self.metric], line["epoch"])
            pruned = trial.should_prune()
            return not pruned

        resume = (folder / "run.json").exists()
        ended = train(
            recipe,
            self.data,
            folder,
            seed=self.seed,
            device_name=self.device_name,
            resume=resume,
            on_epoch=report_epoch,
        )
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif ended:
            validation = best_validation(folder)[self.metric]
            self._write_best(trial, validation)  # first: a trial that is told is never resumed
            self.study.tell(trial, validation)
        if pruned or ended:
            checkpoint_of(folder, SELECTION).unlink(missing_ok=True)
        return ended

    def outcome(self, *, interrupted: bool) -> StudyOutcome:
        """Return the results of all finished trials."""
        best = self._best()
        return StudyOutcome(
            metric=self.metric,
            trials=tuple(self._outcome_of(trial) for trial in self._trials(FINISHED)),
            best=None if best is None else self._outcome_of(best),
            best_recipe=None if best is None else self.out / BEST,
            interrupted=interrupted,
        )

    def _next(self) -> Trial:
        """Return the interrupted trial, or a new one, sampled with a seed that depends on its number only."""
        for trial in self._trials((TrialState.RUNNING,)):
            return Trial(self.study, trial._trial_id)  # optuna has no public way to resume a trial
        seed = np.random.SeedSequence([self.seed, len(self.study.trials)]).generate_state(1)[0]
        self.study.sampler = TPESampler(seed=int(seed))
        return self.study.ask({key: variation.distribution for key, variation in self.space.variations.items()})

    def _trials(self, states: tuple[TrialState, ...]) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _best(self) -> FrozenTrial | None:
        complete = self._trials((TrialState.COMPLETE,))
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    def _write_best(self, trial: Trial, validation: float) -> None:
        """Write the best recipe of the complete trials and this one, which ends with this validation metric."""
        number, params = trial.number, trial.params
        best = self._best()
        if best is not None and best.value is not None and best.value >= validation:
            number, params, validation = best.number, best.params, best.value
        facts = read_run(self._folder(number))
        comment = (
            f"# Of {self.finished() + 1} trials on {self.data.resolve().name} the best: trial {number}, validation "
            f"{self.metric} {validation:.4f}, seed {self.seed}, data {facts['data_fingerprint'][:12]}.\n"
        )
        (self.out / BEST).write_text(comment + self.space.text(params), encoding="utf-8")

    def _outcome_of(self, trial: FrozenTrial) -> TrialOutcome:
        reported = trial.intermediate_values
        return TrialOutcome(
            number=trial.number,
            state=trial.state.name.lower(),
            validation=max(reported.values(), default=None),
            epochs=max(reported, default=0),
            values={key: self.space.plain_value(key, parameter) for key, parameter in trial.params.items()},
        )

    def _folder(self, number: int) -> Path:
        return self.out / f"trial-{number}"
