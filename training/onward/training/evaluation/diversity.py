"""Item categories of a bundle, and rankings that are re-ranked for diverse categories.

Dimension key: C candidates.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onward.bundle import Catalog
from onward.bundle.search.diversity import diversify, in_unit_range
from onward.training.errors import InputError
from onward.training.evaluation.cases import BatchRanker, EvaluationCase, RankedItem

MIN_CANDIDATES_PER_PLACE = 4
"""The fewest candidates per place of the ranking: as many as the paper's models have interests."""


class RerankedItem(NamedTuple):
    """A re-ranked item; its score is 0 for the first place, then -1, -2, ..., not the model's score."""

    item_id: str
    score: float


def categories_of(catalog: Catalog, attribute: str) -> dict[str, int]:
    """Map each item id to the number of its category: its value of `attribute`.

    A list is one value; items without the attribute share a category. Raises InputError if no item has the attribute.
    """
    attributes = [catalog.attributes(row) for row in range(1, len(catalog) + 1)]
    if not any(attribute in of_item for of_item in attributes):
        known = ", ".join(sorted({name for of_item in attributes for name in of_item})) or "none at all"
        raise InputError(f"--category {attribute}: no item of the bundle has this attribute; there are: {known}")
    numbers: dict[str, int] = {}
    return {
        catalog.item_id(row): numbers.setdefault(json.dumps(of_item.get(attribute)), len(numbers))
        for row, of_item in enumerate(attributes, start=1)
    }


def diversified(ranker: BatchRanker, categories: Mapping[str, int], *, interests: int, weight: float) -> BatchRanker:
    """Re-rank a ranker's candidates by their scores and by the diversity of their categories.

    Args:
        ranker: retrieves the candidates.
        categories: the category number of every item.
        interests: candidates per place, but at least `MIN_CANDIDATES_PER_PLACE`.
        weight: see `diversify`; scores are scaled to the unit range first.
    """

    def diverse(cases: Sequence[EvaluationCase], k: int) -> Sequence[Sequence[RankedItem]]:
        answers = ranker(cases, k * max(interests, MIN_CANDIDATES_PER_PLACE))
        return [reranked(candidates, k) for candidates in answers]

    def reranked(candidates: Sequence[RankedItem], k: int) -> Sequence[RankedItem]:
        scores_C = np.array([item.score for item in candidates], dtype=np.float32)
        categories_C = np.array([categories[item.item_id] for item in candidates], dtype=np.int64)
        chosen = diversify(in_unit_range(scores_C), categories_C, k, weight)
        return [RerankedItem(candidates[place].item_id, -float(rank)) for rank, place in enumerate(chosen.tolist())]

    return diverse
