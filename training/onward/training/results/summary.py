"""Summaries of a recipe's runs: mean and deviation over seeds, and comparisons with published figures and baselines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Self

from onward.training.errors import InputError
from onward.training.recipe import Recipe
from onward.training.results.anchors import DataSetProfile
from onward.training.results.record import DataRecords, RunRecord


@dataclass(frozen=True)
class SeedStatistics:
    """Mean of a figure over seeds, and its sample standard deviation, None for a single seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, figures: list[float]) -> Self:
        """Compute the statistics of at least one figure."""
        return cls(mean(figures), stdev(figures) if len(figures) > 1 else None)


@dataclass(frozen=True)
class RecipeSummary:
    """All runs of a recipe on one data set."""

    recipe: str
    model: str
    runs: tuple[RunRecord, ...]

    @classmethod
    def all_of(cls, runs: tuple[RunRecord, ...]) -> list[Self]:
        """Return one summary per recipe, sorted by name."""

        def recipe(run: RunRecord) -> str:
            return run.recipe

        grouped = ((name, tuple(group)) for name, group in groupby(sorted(runs, key=recipe), key=recipe))
        return [cls(name, group[0].model, group) for name, group in grouped]

    @property
    def form(self) -> str:
        """Which of the model's written forms the runs have, by their recipes; empty if those name none."""
        return "; ".join(dict.fromkeys(filter(None, map(_form, self.runs))))

    @property
    def refitted(self) -> bool:
        """Whether a run has learnt from the validation part too."""
        return any(run.refitted for run in self.runs)

    def compares(self, data_set: DataSetProfile) -> bool:
        """Return whether the runs compare with published figures of the data set."""
        return data_set.refit_compares or not self.refitted

    def served(self, metric: str) -> SeedStatistics | None:
        """Return the statistics of a metric as served, a fraction; None if a run lacks it."""
        return self._statistics(metric, lambda run: run.served)

    def exact(self, metric: str) -> SeedStatistics | None:
        """Return the statistics of a metric by exact search, a fraction; None if a run lacks it."""
        return self._statistics(metric, lambda run: run.exact)

    def _statistics(self, metric: str, metrics: Callable[[RunRecord], Mapping[str, float]]) -> SeedStatistics | None:
        if any(metric not in metrics(run) for run in self.runs):
            return None
        return SeedStatistics.of([metrics(run)[metric] for run in self.runs])


def _form(run: RunRecord) -> str:
    try:
        return Recipe.parse(run.recipe_text, run.recipe).form
    except InputError:  # a bundle of several recipes, or a recipe with a model that is not here
        return ""


@dataclass(frozen=True)
class Comparison:
    """Our best recipe in one metric, as served, and its best rival; figures in the unit of the data set."""

    column: str
    ours: str
    figure: float
    rival: str
    rival_figure: float

    @property
    def loses(self) -> bool:
        """Return whether the rival is ahead."""
        return self.figure < self.rival_figure


def comparisons(records: DataRecords, data_set: DataSetProfile) -> list[Comparison]:
    """Compare our best comparable recipe with the best such anchor or baseline, in each metric that both have."""
    compared = []
    for column in data_set.columns:
        ours = {
            summary.recipe: spread.mean * data_set.scale
            for summary in RecipeSummary.all_of(records.runs)
            if summary.compares(data_set) and (spread := summary.served(column.metric))
        }
        rivals = rival_figures(records, data_set, column.metric)
        if ours and rivals:
            best, rival = max(ours, key=ours.__getitem__), max(rivals, key=rivals.__getitem__)
            compared.append(Comparison(column.name, best, ours[best], rival, rivals[rival]))
    return compared


def rival_figures(records: DataRecords, data_set: DataSetProfile, metric: str) -> dict[str, float]:
    """Return the comparable published figures and the baselines' figures, by name, in the unit of the data set."""
    rivals = {row.name: row.figures[metric] for row in data_set.published if row.comparable and metric in row.figures}
    for name, metrics in records.baselines.metrics.items() if records.baselines else ():
        if metric in metrics:
            rivals[f"the baseline {name}"] = metrics[metric] * data_set.scale
    return rivals
