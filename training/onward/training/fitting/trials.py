"""Train candidates, rung by rung, and measure them on the compared examples."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onward.training.data.dataset import Dataset
from onward.training.data.newest_sessions import write_newest_sessions
from onward.training.errors import Diverged, InputError
from onward.training.fitting.candidates import Candidate
from onward.training.fitting.compared_examples import ComparedExamples, Values, means, read_values, write_values
from onward.training.fitting.journal import Journal
from onward.training.fitting.plan_text import figures
from onward.training.fitting.records import METRIC, Plan, Rung, Trial
from onward.training.models.encoder import SessionEncoder
from onward.training.recipe import Recipe
from onward.training.run_folder import RUN_FILE, SELECTION, checkpoint_of, read_history
from onward.training.trained_run import fitted_to_training
from onward.training.trainer import train
from onward.training.tuning.search_space import with_values

VALUES = "values.npz"
FEWEST_SECONDS = 30.0
OVERRUN = 2.0
"""A training that takes this many times as long as planned ends with its epoch, on a machine that became busier."""
OF_ONE_MODEL = 2
"""Most candidates of one model that go on to the next rung."""


class Interrupted(Exception):  # it is no error
    """A training was asked to end; the fit goes on with `resume`."""


@dataclass(frozen=True)
class Trials:
    """The trials of a fit, in the folder `trials`."""

    dataset: Dataset
    candidates: Mapping[str, Candidate]
    examples: ComparedExamples
    journal: Journal
    device_name: str

    @property
    def plan(self) -> Plan:
        """The plan of the fit."""
        if self.journal.record.plan is None:
            raise ValueError("the fit has no plan yet")
        return self.journal.record.plan

    def run(self) -> None:
        """Run all trials that have not ended. Raises InputError if all of them failed, Interrupted on a signal."""
        names: Sequence[str] = ()
        for number, rung in enumerate(self.plan.rungs, 1):
            names = rung.candidates if number == 1 else self._best_networks(number - 1)
            for name in names:
                if self._ended(name, number) is None:
                    self._run(self.candidates[name], number, rung)
        if not self.best():
            failed = self.journal.record.trials[-1]
            raise InputError(f"{self.journal.out}: every training failed, the last one so: {failed.failure}")

    def best(self) -> list[Trial]:
        """Return the trials to choose from: the best one of each candidate, since all rungs see the same sessions."""
        best: dict[str, Trial] = {}
        for trial in self.journal.record.trials:
            before = best.get(trial.candidate)
            if trial.failure is None and (before is None or trial.metrics[METRIC] > before.metrics[METRIC]):
                best[trial.candidate] = trial
        return list(best.values())

    def best_of(self, name: str) -> Trial:
        """Return the best trial of a candidate."""
        return next(trial for trial in self.best() if trial.candidate == name)

    def values(self, name: str) -> Values:
        """Return the metrics of a candidate on the compared examples."""
        return read_values(self._folder(name, self.best_of(name).rung) / VALUES)

    def encoder(self, name: str) -> SessionEncoder:
        """Load the encoder of a candidate, as fitted without validation sessions."""
        rung = self.best_of(name).rung
        return self._load(self._folder(name, rung), self.plan.rungs[rung - 1])

    def train(
        self,
        recipe: Recipe,
        data: Path,
        folder: Path,
        *,
        refit_epochs: int | None = None,
        seconds: float = math.inf,
    ) -> None:
        """Train, or resume a training that was interrupted, for no more epochs once `seconds` have passed.

        Raises Interrupted on a signal.
        """
        began = time.monotonic()
        ended = train(
            recipe,
            data,
            folder,
            refit_epochs=refit_epochs,
            seed=self.journal.record.seed,
            device_name=self.device_name,
            resume=(folder / RUN_FILE).exists(),
            reports_epochs=False,
            on_epoch=lambda line: time.monotonic() - began < seconds,
        )
        if not ended:
            self.journal.save()
            raise Interrupted

    def _run(self, candidate: Candidate, number: int, rung: Rung) -> None:
        name, recipe = candidate.name, without_refit(with_epochs(candidate.recipe, rung.epochs))
        folder, began = self._folder(name, number), time.monotonic()
        self.journal.on_step(f"rung {number}: training {name}")
        try:
            planned = self.plan.costs[name] * rung.share * rung.epochs
            self.train(recipe, self._data(rung), folder, seconds=max(OVERRUN * planned, FEWEST_SECONDS))
        except Diverged as error:
            self._add(name, number, recipe.training.epochs, began, failure=str(error))
            self.journal.on_note(f"{name}: failed: {error}")
            return
        values = self.examples.of_encoder(self._load(folder, rung))
        write_values(values, folder / VALUES)
        metric = recipe.training.validation_metric
        curve = tuple(line["validation"][metric] for line in read_history(folder))
        checkpoint_of(folder, SELECTION).unlink(missing_ok=True)
        trial = self._add(name, number, len(curve), began, metrics=means(values), curve=curve)
        planned_epochs = recipe.training.epochs if recipe.has_steps else 1
        ended = f", ended after {trial.epochs} of {planned_epochs} epochs" if trial.epochs < planned_epochs else ""
        self.journal.on_note(f"{name} (rung {number}): {figures(trial.metrics)}; {trial.seconds:,.0f} s{ended}")

    def _add(
        self,
        name: str,
        rung: int,
        epochs: int,
        began: float,
        *,
        metrics: Mapping[str, float] | None = None,
        curve: tuple[float, ...] = (),
        failure: str | None = None,
    ) -> Trial:
        trial = Trial(
            candidate=name,
            rung=rung,
            epochs=epochs,
            best_epoch=curve.index(max(curve)) + 1 if curve else 0,
            seconds=time.monotonic() - began,
            metrics=dict(metrics or {}),
            curve=curve,
            failure=failure,
        )
        self.journal.save(trials=(*self.journal.record.trials, trial))
        return trial

    def _ended(self, name: str, rung: int) -> Trial | None:
        trials = self.journal.record.trials
        return next((trial for trial in trials if (trial.candidate, trial.rung) == (name, rung)), None)

    def _best_networks(self, rung: int) -> list[str]:
        of_rung = [trial for trial in self.journal.record.trials if trial.rung == rung and trial.failure is None]
        best: list[str] = []
        models: list[str] = []
        for trial in sorted(of_rung, key=lambda trial: -trial.metrics[METRIC]):
            recipe = self.candidates[trial.candidate].recipe
            is_wanted = recipe.has_steps and models.count(recipe.model) < OF_ONE_MODEL
            if is_wanted and len(best) < self.plan.rungs[rung - 1].keep:
                best.append(trial.candidate)
                models.append(recipe.model)
        return best

    def _folder(self, name: str, rung: int) -> Path:
        return self.journal.out / "trials" / f"{rung}-{name}"

    def _data(self, rung: Rung) -> Path:
        if rung.share == 1:
            return self.dataset.folder
        folder = self.journal.out / "sample"
        if not folder.exists():
            self.journal.on_step(f"writing the newest {rung.share:.1%} of the training sessions")
            write_newest_sessions(self.dataset, rung.share, folder)
        return folder

    def _load(self, folder: Path, rung: Rung) -> SessionEncoder:
        loaded = fitted_to_training(folder, Dataset.open(self._data(rung)))
        if loaded is None:
            raise InputError(f"{folder}: was changed by another command; fit again in another folder")
        return loaded.encoder


def with_epochs(recipe: Recipe, share: float) -> Recipe:
    """Return a recipe with this share of its epochs, one at least; its schedule spans them."""
    if not recipe.has_steps or share == 1:
        return recipe
    epochs = max(1, round(share * recipe.training.epochs))
    return _with_training(recipe, {"training.epochs": epochs, "training.patience": epochs})


def without_refit(recipe: Recipe) -> Recipe:
    """Return a recipe whose fit to the training part alone is its result."""
    return _with_training(recipe, {"training.refit": False})


def _with_training(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    return Recipe.parse(with_values(recipe.text, values), f"{recipe.name}.toml")
