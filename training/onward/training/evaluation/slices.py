"""Accuracy by kinds of targets: how often training saw them, how long the session was, and whether they repeat it.

Dimension key: E examples. Each target of a case counts as one example.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onward.training.evaluation.cases import EvaluationCase

K = 20
Slices = dict[str, dict[str, dict[str, float]]]
"""By what they are divided, and which: number of examples, recall@20 and MRR@20."""
EVENTS = ((1, "never seen"), (5, "seen 1 to 4 times"), (20, "seen 5 to 19 times"), (100, "seen 20 to 99 times"))
LENGTHS = ((2, "after 1 item"), (3, "after 2 items"), (5, "after 3 or 4 items"), (10, "after 5 to 9 items"))


def accuracy_by_slice(
    cases: Sequence[EvaluationCase], ranks: Sequence[Sequence[int]], popularity: Mapping[str, int]
) -> Slices:
    """Return recall@20 and MRR@20 of the targets of each kind; kinds without targets are left out.

    Args:
        cases: the examples.
        ranks: the rank of each target of each case.
        popularity: the number of training events of each item; an item that it lacks has none.
    """
    targets = [(case, target) for case in cases for target in case.targets]
    ranks_E = np.array([rank for of_case in ranks for rank in of_case])
    hit_E = ranks_E <= K
    reciprocal_E = np.where(hit_E, 1 / ranks_E, 0.0)

    def divided(name_of: Callable[[EvaluationCase, str], str], order: Sequence[str]) -> dict[str, dict[str, float]]:
        names_E = np.array([name_of(case, target) for case, target in targets])
        return {
            name: {
                "examples": int(is_in_E.sum()),
                f"recall@{K}": float(hit_E[is_in_E].mean()),
                f"mrr@{K}": float(reciprocal_E[is_in_E].mean()),
            }
            for name in order
            if (is_in_E := names_E == name).any()
        }

    return {
        "events in training": divided(
            lambda case, target: _bucket(popularity.get(target, 0), EVENTS, "seen 100 times or more"),
            [*(name for _, name in EVENTS), "seen 100 times or more"],
        ),
        "session length": divided(
            lambda case, target: _bucket(len(case.inputs), LENGTHS, "after 10 items or more"),
            [*(name for _, name in LENGTHS), "after 10 items or more"],
        ),
        "repetition": divided(
            lambda case, target: _repetition(case.inputs, target),
            ["new item", "an earlier item again", "the item at hand again"],
        ),
    }


def _repetition(inputs: Sequence[str], target: str) -> str:
    if target not in inputs:
        return "new item"
    return "the item at hand again" if target == inputs[-1] else "an earlier item again"


def _bucket(number: int, bounds: Sequence[tuple[int, str]], otherwise: str) -> str:
    return next((name for bound, name in bounds if number < bound), otherwise)
