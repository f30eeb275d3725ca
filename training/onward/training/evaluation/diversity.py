"""Categories of a bundle's items, and answers that vary them more.

Dimension key: C candidates.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onward.bundle import Catalog
from onward.bundle.search.diversity import diversify, in_unit_range
from onward.training.errors import InputError
from onward.training.evaluation.cases import CaseRanker, EvaluationCase, RankedItem

MIN_CANDIDATES_PER_PLACE = 4
"""Candidates for each place of the answer, at least: as many as the paper's models have interests."""


class RerankedItem(NamedTuple):
    """An item of an answer whose order is not that of the model's scores: the score is 0 for the first, -1, -2, ..."""

    item_id: str
    score: float


def categories_of(catalog: Catalog, attribute: str) -> dict[str, int]:
    """A number for what each item has as `attribute`; a list counts as a whole, items without any are alike.

    Raises InputError where no item has the attribute.
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


def diversified(answer: CaseRanker, categories: Mapping[str, int], *, interests: int, weight: float) -> CaseRanker:
    """The same answers, chosen for their scores and for diverse categories from K candidates for each place.

    Args:
        answer: what is asked for the candidates.
        categories: the number of every item's category.
        interests: K; `LEAST_POOL` candidates are taken where it is smaller.
        weight: see `diversify`; scores are put into the unit range first.
    """

    def diverse(question: EvaluationCase, k: int) -> Sequence[RankedItem]:
        candidates = answer(question, k * max(interests, MIN_CANDIDATES_PER_PLACE))
        scores_C = np.array([item.score for item in candidates], dtype=np.float32)
        categories_C = np.array([categories[item.item_id] for item in candidates], dtype=np.int64)
        chosen = diversify(in_unit_range(scores_C), categories_C, k, weight)
        return [RerankedItem(candidates[place].item_id, -float(rank)) for rank, place in enumerate(chosen.tolist())]

    return diverse
