"""What a fit tries on a dataset: recipes for any data, adapted to its size, and variations of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onward.training.data.dataset import Dataset, Sessions
from onward.training.data.repeats import Repeats
from onward.training.recipe import Recipe
from onward.training.tuning.search_space import with_values

MANY_EXAMPLES = 200_000
VERY_MANY_EXAMPLES = 1_000_000
SIMPLEST_FIRST = ("knn", "srgnn", "attrec", "sasrec", "comirec_sa", "mvcrec")
"""Models from the simplest to the most complex: by the cost of training and serving, and the number of parts."""

Values = Mapping[str, Any]

NEAR: Values = {"encoder.max_length": 9, "encoder.candidates": 500, "encoder.neighbours": 100}
VARIATIONS: dict[str, tuple[str, Values]] = {
    "knn": ("knn", {}),
    "knn-wide": (
        "knn",
        {
            "encoder.max_length": 50,
            "encoder.candidates": 5_000,
            "encoder.neighbours": 500,
            "encoder.place_power": 2,
            "encoder.match": "reciprocal",
            "encoder.rarity_base": 1.0,
            "encoder.rarity_factor": 10.0,
        },
    ),
    "knn-near": ("knn", NEAR),
    "knn-few-repeats": ("knn", {**NEAR, "encoder.max_length": 20, "encoder.repeat_share": 0.2}),
    "knn-repeats": ("knn", {**NEAR, "encoder.max_length": 20, "encoder.repeat_share": 0.5}),
    "srgnn": ("srgnn", {}),
    "srgnn-dropout": ("srgnn", {"encoder.dropout": 0.3}),
    "attrec": ("attrec", {}),
    "attrec-dropout": ("attrec", {"encoder.item_dropout": 0.3}),
    "sasrec": ("sasrec", {}),
    "sasrec-dropout": ("sasrec", {"encoder.dropout": 0.4}),
    "comirec_sa": ("comirec_sa", {}),
    "comirec_sa-dropout": ("comirec_sa", {"encoder.dropout": 0.3}),
    "mvcrec": (
        "mvcrec",
        {"encoder.embedding_dropout": 0.4, "encoder.dropout": 0.3, "encoder.contrast.weight": 0.0},
    ),
}
"""Recipes and the values that they are varied by, by the name of the candidate."""
FOR_SESSIONS = (
    *("knn", "knn-wide", "knn-near", "knn-few-repeats", "knn-repeats", "srgnn", "attrec", "srgnn-dropout"),
    *("attrec-dropout", "comirec_sa", "sasrec", "mvcrec", "sasrec-dropout", "comirec_sa-dropout"),
)
FOR_HISTORIES = (
    *("knn", "knn-wide", "knn-near", "knn-few-repeats", "knn-repeats", "sasrec", "mvcrec", "srgnn-dropout"),
    *("attrec-dropout", "sasrec-dropout", "srgnn", "attrec", "comirec_sa", "comirec_sa-dropout"),
)
"""Names of candidates, the most promising first: a small budget leaves out those at the end."""


class Candidate(NamedTuple):
    """A recipe to try."""

    name: str
    recipe: Recipe

    @property
    def complexity(self) -> int:
        """The place of its model among all, from the simplest."""
        return SIMPLEST_FIRST.index(self.recipe.model)


class Adapted(NamedTuple):
    """A default that follows the size of a dataset."""

    what: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value} ({self.why})"


def candidates_for(dataset: Dataset) -> list[Candidate]:
    """Return the candidates for a dataset, the most promising first."""
    names: tuple[str, ...] = FOR_HISTORIES if dataset.info.options.split.takes_histories else FOR_SESSIONS
    if Repeats.of(dataset).exclude_seen is True:
        names = tuple(name for name in names if not name.endswith("repeats"))
    examples = dataset.info.parts["train"].examples
    return [_candidate(name, examples) for name in names]


def adapted_training(dataset: Dataset) -> list[Adapted]:
    """Describe how the recipes of networks are adapted to a dataset."""
    sessions = dataset.sessions("train")
    return [*_adapted_to_size(dataset), _weights_of_targets(sessions), *_weak_negatives(sessions)]


def _weights_of_targets(sessions: Sessions) -> Adapted:
    weights, what = sessions.weights, "weights of targets"
    if weights is None:
        return Adapted(what, "equal", "events have no weights; --weights view=1,cart=3,purchase=5 gives types some")
    if weights.min() == weights.max():
        return Adapted(what, "equal", "so are those of all events")
    return Adapted(what, f"those of their events, {weights.min():g} to {weights.max():g}", "for networks")


def _weak_negatives(sessions: Sessions) -> list[Adapted]:
    if sessions.shown is None:
        return []
    return [Adapted("weak negatives", f"{len(sessions.shown.rows):,} impressions without a click", "for networks")]


def _adapted_to_size(dataset: Dataset) -> list[Adapted]:
    examples = dataset.info.parts["train"].examples
    values = {name: _sized(Recipe.load(Path(name)), examples) for name in SIMPLEST_FIRST if name != "knn"}
    why = f"{examples:,} training examples"
    return [
        Adapted(
            key.partition(".")[2],
            ", ".join(f"{name} {of_recipe[key]}" for name, of_recipe in values.items() if key in of_recipe),
            why,
        )
        for key in ("encoder.dimension", "training.epochs", "training.batch_size")
        if any(key in of_recipe for of_recipe in values.values())
    ]


def _candidate(name: str, examples: int) -> Candidate:
    base, varied = VARIATIONS[name]
    recipe = Recipe.load(Path(base))
    text = with_values(recipe.text, {**varied, **_sized(recipe, examples)})
    return Candidate(name, Recipe.parse(text, f"{name}.toml"))


def _sized(recipe: Recipe, examples: int) -> dict[str, Any]:
    """Return the values of a recipe that suit a number of examples.

    On the 20,000 events of a shop 100 dimensions are better than 64 (NDCG@20 on validation: AttRec .1536 against .1457,
    ComiRec-SA .1554 against .1501, SR-GNN .0912 against .0840, SASRec .0829 against .0714), and as good as 160. On the
    million ratings of MovieLens the best recipe of SASRec has 128. A schedule that falls to zero with the last epoch
    gains most at its end, so a fit does not stop before it.
    """
    if not recipe.has_steps:
        return {}
    epochs = recipe.training.epochs
    values: dict[str, Any] = {"encoder.dimension": 100 if examples < VERY_MANY_EXAMPLES else 128}
    if examples >= MANY_EXAMPLES:
        epochs = 5
        if recipe.model != "sasrec":  # its batch is of sessions
            values["training.batch_size"] = 512
    return {**values, "training.epochs": epochs, "training.patience": epochs}
