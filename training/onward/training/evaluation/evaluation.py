"""Held-out sessions asked one by one, as they are served, and what the answers are worth."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onward.bundle import Bundle, Options, SessionView
from onward.training.baselines import BASELINES
from onward.training.data.dataset import Dataset, PartName
from onward.training.evaluation.cases import CaseRanker, EvaluationCase, RankedItem, held_out_cases
from onward.training.evaluation.diversity import categories_of, diversified
from onward.training.evaluation.metrics import coverage, diversity, ranking_metrics
from onward.training.evaluation.sampled_ranking import evaluate_sampled
from onward.training.progress import counting

CUTOFFS = (5, 10, 20, 50)
BEYOND = np.iinfo(np.int64).max
"""The rank of a target that is not in the list."""


SessionRanker = Callable[[Sequence[str], int], Sequence[RankedItem]]
"""The items that follow a session, oldest first, and how many are wanted -> the best of them, best first."""


def evaluate(
    retrieve: SessionRanker,
    asked: Sequence[EvaluationCase],
    *,
    items: int,
    ks: Sequence[int] = CUTOFFS,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Metrics of what answers by the session alone; see `evaluate_answers`."""
    return evaluate_cases(
        lambda question, k: retrieve(question.inputs, k), asked, items=items, ks=ks, on_answer=on_answer
    )


def evaluate_cases(
    answer: CaseRanker,
    asked: Sequence[EvaluationCase],
    *,
    items: int,
    ks: Sequence[int] = CUTOFFS,
    categories: Mapping[str, int] | None = None,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Recall, MRR, NDCG and coverage at each of `ks`, as fractions, and the number of examples.

    One item more than the largest k is retrieved, so that a target tied with an item outside the list is a miss: ties
    count against the model.

    Args:
        answer: answers one question; called from as many threads as there are cores.
        asked: the examples.
        items: size of the catalog, for the coverage.
        ks: cut-offs.
        categories: the number of every item's category, for the diversity at each of `ks`; without them there is none.
        on_answer: called after each answer.
    """
    ranks: list[int] = []
    owners: list[int] = []
    lists: list[list[str]] = []

    def ask(question: EvaluationCase) -> Sequence[RankedItem]:
        return answer(question, max(ks) + 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (question, ranking) in enumerate(zip(asked, _in_turn(pool, ask, asked), strict=True)):
            lists.append([ranked.item_id for ranked in ranking[: max(ks)]])
            scores = {ranked.item_id: ranked.score for ranked in ranking}
            for target in question.targets:
                owners.append(number)
                ranks.append(_rank(scores, target))
            on_answer()
    metrics = ranking_metrics(np.array(ranks), np.array(owners), ks)
    for k in ks:
        metrics[f"coverage@{k}"] = coverage([ranked[:k] for ranked in lists], items)
        if categories is not None:
            metrics[f"diversity@{k}"] = diversity([[categories[item] for item in ranked[:k]] for ranked in lists])
    return {**metrics, "examples": len(asked)}


def _rank(scores: dict[str, float], target: str) -> int:
    if target not in scores:
        return int(BEYOND)
    return sum(score >= scores[target] for score in scores.values())


def _in_turn(
    pool: ThreadPoolExecutor, ask: Callable[[EvaluationCase], Sequence[RankedItem]], asked: Sequence[EvaluationCase]
) -> Iterator[Sequence[RankedItem]]:
    """`pool.map` in slices, so that only some thousand answers wait to be counted."""
    remaining = iter(asked)
    while chunk := list(islice(remaining, 2_000)):
        yield from pool.map(ask, chunk)


def evaluate_bundle(
    folder: Path,
    data: Path,
    part: PartName,
    *,
    sampled_negatives: int = 0,
    seed: int = 0,
    category: str | None = None,
    diversity_weight: float = 0,
) -> dict[str, Any]:
    """Metrics of a bundle as served, those of exact search under "exact", and what was asked.

    Users whom training knew are named.

    Args:
        folder: a bundle, or a folder of bundles, meaning its current one.
        data: a dataset.
        part: the part whose examples are asked.
        sampled_negatives: how many drawn items each target is ranked among besides, under "sampled"; 0 for none.
        seed: of that draw.
        category: an attribute of the catalog, for the diversity of the answers.
        diversity_weight: choose answers for diverse categories too, as `diversified` does; 0 for their scores alone.

    Raises:
        InputError: the dataset has no such part, too few items for that draw, or no item has the attribute.
        BundleError: the bundle is damaged.
    """
    bundle = Bundle.load(folder / "current" if (folder / "current").is_symlink() else folder)
    asked = held_out_cases(Dataset.open(data), part)
    categories = categories_of(bundle.catalog, category) if category is not None else None

    def answers(*, exact: bool) -> CaseRanker:
        def answer(question: EvaluationCase, k: int) -> Sequence[RankedItem]:
            return bundle.retrieve(
                SessionView(question.inputs), Options(k, exact=exact), user_id=question.user_id
            ).items

        if categories is None or not diversity_weight:
            return answer
        return diversified(answer, categories, interests=bundle.manifest.interests, weight=diversity_weight)

    def metrics(*, exact: bool) -> dict[str, float]:
        with counting("exact search" if exact else "as served", len(asked)) as count:
            return evaluate_cases(
                answers(exact=exact),
                asked,
                items=bundle.manifest.items,
                categories=categories,
                on_answer=count,
            )

    facts = {"model": bundle.manifest.model, "bundle": bundle.digest, "part": part}
    report: dict[str, Any] = {**facts, **metrics(exact=False), "exact": metrics(exact=True)}
    if sampled_negatives:
        with counting("sampled", len(asked)) as count:
            report["sampled"] = evaluate_sampled(bundle, asked, negatives=sampled_negatives, seed=seed, on_answer=count)
    return report


def evaluate_baselines(data: Path, part: PartName, *, hide_seen: bool = False) -> dict[str, Any]:
    """Metrics of every baseline, by its name.

    Args:
        data: a dataset.
        part: the part whose examples are asked; baselines count what comes before it.
        hide_seen: items of the session are no answers, as where a user takes an item once.

    Raises:
        InputError: the dataset has no such part.
    """
    dataset = Dataset.open(data)
    asked = held_out_cases(dataset, part)
    metrics: dict[str, Any] = {}
    for name, baseline in BASELINES.items():
        retrieve = baseline(dataset, part).retrieve
        with counting(name, len(asked)) as count:
            metrics[name] = evaluate(
                _unseen(retrieve) if hide_seen else retrieve, asked, items=len(dataset.item_ids()), on_answer=count
            )
    return metrics


def _unseen(retrieve: SessionRanker) -> SessionRanker:
    def unseen(item_ids: Sequence[str], k: int) -> list[RankedItem]:
        seen = set(item_ids)
        return [item for item in retrieve(item_ids, k + len(seen)) if item.item_id not in seen][:k]

    return unseen
