"""Evaluate bundles and baselines: rank the items of held-out sessions as served, in batches, and compute metrics."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onward.bundle import Bundle, Options, SessionView
from onward.bundle.search.retrieval import ExcludeSeen, RetrievalQuery
from onward.training.baselines import BASELINES
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset, PartName
from onward.training.evaluation.cases import (
    BatchRanker,
    CaseRanker,
    CaseSample,
    EvaluationCase,
    RankedItem,
    one_by_one,
)
from onward.training.evaluation.diversity import categories_of, diversified
from onward.training.evaluation.metrics import BEYOND, coverage, diversity, gini, ranking_metrics
from onward.training.evaluation.paired_test import standard_errors
from onward.training.evaluation.sampled_ranking import evaluate_sampled
from onward.training.evaluation.slices import accuracy_by_slice
from onward.training.evaluation.unknown_items import (
    count_unknown_targets,
    warn_of_another_dataset,
    warn_of_unknown_items,
)
from onward.training.progress import counting

CUTOFFS = (5, 10, 20, 50)
CASES_AT_ONCE, CHUNKS_AT_ONCE = 64, 32
"""Cases that a thread asks a ranker about at once, and such chunks whose rankings are in memory at once."""
SHOWN = 20
"""The length of lists whose concentration on few items is measured."""
LEFT_OUT: Mapping[ExcludeSeen, str] = {False: "nothing", "last": "the item at hand", True: "all items of the session"}
"""What answers leave out by a bundle's default, in words; a target among it is a miss."""


SessionRanker = Callable[[Sequence[str], int], Sequence[RankedItem]]
"""Maps a session's item ids, oldest first, and k to the k items most likely to come next, best first."""


def evaluate(
    retrieve: SessionRanker,
    cases: Sequence[EvaluationCase],
    *,
    items: int,
    ks: Sequence[int] = CUTOFFS,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Compute the metrics of a ranker that reads the session alone; see `evaluate_cases`."""
    return evaluate_cases(one_by_one(by_session(retrieve)), cases, items=items, ks=ks, on_answer=on_answer)


def evaluate_cases(
    ranker: BatchRanker,
    cases: Sequence[EvaluationCase],
    *,
    items: int,
    ks: Sequence[int] = CUTOFFS,
    categories: Mapping[str, int] | None = None,
    popularity: Mapping[str, int] | None = None,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Compute recall, MRR, NDCG and coverage at each of `ks`, as fractions, and the number of examples.

    One more item than the largest k is retrieved, so that a target tied with an item outside the list is a miss: ties
    count against the model. An item whose score is NaN counts as not retrieved.

    Args:
        ranker: ranks items for some cases; called from as many threads as there are cores.
        cases: the examples.
        items: number of items in the catalog, for the coverage.
        ks: cut-offs.
        categories: the category number of every item, to compute the diversity at each of `ks` too.
        popularity: the number of training events of each item, to compute the concentration of the lists at 20 too.
        on_answer: called after each case.
    """
    rankings = ranked_cases(ranker, cases, max(ks), on_answer=on_answer)
    return metrics_of(rankings, cases, items=items, ks=ks, categories=categories, popularity=popularity)


class Rankings(NamedTuple):
    """What a ranker answered to each case."""

    ranks: list[list[int]]
    """The rank of each target."""
    lists: list[list[str]]
    """The items, best first."""


def ranked_cases(
    ranker: BatchRanker, cases: Sequence[EvaluationCase], k: int, *, on_answer: Callable[[], object] = lambda: None
) -> Rankings:
    """Ask a ranker for the k best items of each case, from as many threads as there are cores."""
    rankings = Rankings([], [])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for case, ranking in zip(cases, _map_in_chunks(pool, lambda chunk: ranker(chunk, k + 1), cases), strict=True):
            scores = _scores(ranking)
            rankings.lists.append(list(scores)[:k])
            rankings.ranks.append([_target_rank(scores, target) for target in case.targets])
            on_answer()
    return rankings


def metrics_of(
    rankings: Rankings,
    cases: Sequence[EvaluationCase],
    *,
    items: int,
    ks: Sequence[int] = CUTOFFS,
    categories: Mapping[str, int] | None = None,
    popularity: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Compute the metrics of rankings; see `evaluate_cases`."""
    lists = rankings.lists
    case_numbers = np.repeat(np.arange(len(cases)), [len(ranks) for ranks in rankings.ranks])
    metrics = ranking_metrics(np.array([rank for ranks in rankings.ranks for rank in ranks]), case_numbers, ks)
    for k in ks:
        metrics[f"coverage@{k}"] = coverage([ranked[:k] for ranked in lists], items)
        if categories is not None:
            metrics[f"diversity@{k}"] = diversity([[categories[item] for item in ranked[:k]] for ranked in lists])
    if popularity is not None:
        metrics |= concentration(lists, cases, popularity, items)
    return {**metrics, "examples": len(cases)}


def concentration(
    lists: Sequence[Sequence[str]], cases: Sequence[EvaluationCase], popularity: Mapping[str, int], items: int
) -> dict[str, float]:
    """Return the Gini coefficient of what is shown, and the mean number of training events of shown and next items.

    Args:
        lists: the items shown for each case.
        cases: the examples.
        popularity: the number of training events of each item.
        items: number of items in the catalog.
    """
    shown = Counter(item for ranked in lists for item in ranked[:SHOWN])
    counts = np.zeros(max(items, len(shown)), dtype=np.int64)
    counts[: len(shown)] = [*shown.values()]
    events_shown = sum(count * popularity.get(item, 0) for item, count in shown.items())
    targets = [target for case in cases for target in case.targets]
    return {
        f"gini@{SHOWN}": gini(counts),
        f"popularity_shown@{SHOWN}": events_shown / max(shown.total(), 1),
        "popularity_next": sum(popularity.get(target, 0) for target in targets) / max(len(targets), 1),
    }


def _scores(ranking: Sequence[RankedItem]) -> dict[str, float]:
    return {ranked.item_id: ranked.score for ranked in ranking if not isnan(ranked.score)}


def _target_rank(scores: dict[str, float], target: str) -> int:
    if target not in scores:
        return BEYOND
    return sum(score >= scores[target] for score in scores.values())


def _map_in_chunks(
    pool: ThreadPoolExecutor,
    rank: Callable[[Sequence[EvaluationCase]], Sequence[Sequence[RankedItem]]],
    cases: Sequence[EvaluationCase],
) -> Iterator[Sequence[RankedItem]]:
    """Rank chunks of cases by the pool's threads, `CHUNKS_AT_ONCE` at a time."""
    chunks = (cases[first : first + CASES_AT_ONCE] for first in range(0, len(cases), CASES_AT_ONCE))
    while some := list(islice(chunks, CHUNKS_AT_ONCE)):
        for rankings in pool.map(rank, some):
            yield from rankings


def evaluate_bundle(
    folder: Path,
    data: Path,
    part: PartName,
    *,
    sampled_negatives: int = 0,
    seed: int = 0,
    category: str | None = None,
    diversity_weight: float = 0,
    sample: int | None = None,
    on_warning: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Compute the metrics of a bundle as served, those of exact search under "exact", and name model, bundle, part.

    Users whom training knows are passed with their sessions. Of a sample, "standard_error" has the standard errors.

    Args:
        folder: a bundle, or a folder of bundles, meaning its current one.
        data: a dataset.
        part: the part to evaluate on.
        sampled_negatives: also rank each target among this many sampled items, under "sampled"; 0 for none.
        seed: seed of the sampled items.
        category: an item attribute, to compute the diversity of the rankings in it too.
        diversity_weight: re-rank for diverse categories with this weight, as `diversified` does; 0 for no re-ranking.
        sample: number of examples to draw; 0 for all; None for all up to `EXACT_UP_TO`, else so many.
        on_warning: called with a line if the bundle does not know all items, or was trained on another data set.

    Raises:
        InputError: the dataset has no such part, too few items to sample, or no item has the attribute.
        BundleError: the bundle is damaged.
    """
    bundle = Bundle.load(folder / "current" if (folder / "current").is_symlink() else folder)
    dataset = Dataset.open(data)
    drawn = CaseSample.of(dataset, part, sample)
    cases = drawn.cases
    warn_of_another_dataset(bundle, dataset, on_warning)
    warn_of_unknown_items(cases, bundle.catalog.__contains__, data / f"{part}.parquet", on_warning)
    categories = categories_of(bundle.catalog, category) if category is not None else None
    popularity = events_before(dataset, part)

    def ranker(*, exact: bool) -> BatchRanker:
        rank = served_by(bundle, exact=exact)
        if categories is None or not diversity_weight:
            return rank
        return diversified(rank, categories, interests=bundle.manifest.interests, weight=diversity_weight)

    def rankings(*, exact: bool) -> Rankings:
        with counting("exact search" if exact else "as served", len(cases)) as count:
            return ranked_cases(ranker(exact=exact), cases, max(CUTOFFS), on_answer=count)

    def metrics(of: Rankings) -> dict[str, Any]:
        figures = metrics_of(of, cases, items=bundle.manifest.items, categories=categories, popularity=popularity)
        return {**figures, **_errors_of(of, drawn)}

    facts = {
        "model": bundle.manifest.model,
        "bundle": bundle.digest,
        "part": part,
        "left_out": LEFT_OUT[bundle.manifest.defaults.exclude_seen],
        **drawn.facts(),
    }
    unknown_targets = count_unknown_targets(cases, bundle.catalog.__contains__)
    served = rankings(exact=False)
    report: dict[str, Any] = {
        **facts,
        **metrics(served),
        "unknown_targets": unknown_targets,
        "exact": metrics(rankings(exact=True)),
        "slices": accuracy_by_slice(cases, served.ranks, popularity),
    }
    if sampled_negatives:
        with counting("sampled", len(cases)) as count:
            report["sampled"] = evaluate_sampled(bundle, cases, negatives=sampled_negatives, seed=seed, on_answer=count)
    return report


def served_by(bundle: Bundle, *, exact: bool = False, exclude_seen: ExcludeSeen | None = None) -> BatchRanker:
    """Return the ranker of a bundle, which answers cases in batches, as the service does.

    Args:
        bundle: the bundle.
        exact: compare with every vector instead of searching the index.
        exclude_seen: what answers leave out; None: the bundle's default.
    """

    def rank(cases: Sequence[EvaluationCase], k: int) -> Sequence[Sequence[RankedItem]]:
        options = Options(k, exact=exact, exclude_seen=exclude_seen)
        queries = [RetrievalQuery(SessionView(case.inputs), options, case.user_id) for case in cases]
        return [answer.items for answer in bundle.retrieve_all(queries)]

    return rank


def _errors_of(rankings: Rankings, drawn: CaseSample) -> dict[str, dict[str, float]]:
    """Return the standard errors of a sample's metrics; nothing if all cases are evaluated."""
    return {"standard_error": standard_errors(rankings.ranks, drawn.session_E, CUTOFFS)} if drawn.is_drawn else {}


def evaluate_baselines(
    data: Path,
    part: PartName,
    *,
    hide_seen: bool = False,
    hide_last: bool = False,
    sample: int | None = None,
    on_warning: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Compute the metrics of every baseline, by its name.

    Args:
        data: a dataset.
        part: the part to evaluate on; baselines count the events before it.
        hide_seen: rank no item of the session, for data in which a user takes each item once.
        hide_last: do not rank the last item of the session, as bundles with this default.
        sample: as of `evaluate_bundle`.
        on_warning: called with a line if there are items that training never saw.

    Raises:
        InputError: the dataset has no such part.
    """
    dataset = Dataset.open(data)
    drawn = CaseSample.of(dataset, part, sample)
    cases = drawn.cases
    warn_of_unknown_items(cases, set(dataset.item_ids()).__contains__, data / f"{part}.parquet", on_warning)
    popularity = events_before(dataset, part)
    metrics: dict[str, Any] = {}
    for name, baseline in BASELINES.items():
        retrieve = without_excluded(baseline(dataset, part).retrieve, hide_seen or (hide_last and "last"))
        with counting(name, len(cases)) as count:
            rankings = ranked_cases(one_by_one(by_session(retrieve)), cases, max(CUTOFFS), on_answer=count)
        metrics[name] = {
            **drawn.facts(),
            **metrics_of(rankings, cases, items=len(dataset.item_ids()), popularity=popularity),
            **_errors_of(rankings, drawn),
            "slices": accuracy_by_slice(cases, rankings.ranks, popularity),
        }
    return metrics


def events_before(dataset: Dataset, part: PartName) -> dict[str, int]:
    """Return the number of events by item that whoever is evaluated on a part may have learned from."""
    ids = dataset.item_ids()
    parts = dataset.training_and_validation() if part == "test" else [dataset.sessions("train")]
    counts_N1 = Corpus.of(dataset, parts).popularity()
    return dict(zip(ids, counts_N1[1:].tolist(), strict=True))


def by_session(retrieve: SessionRanker) -> CaseRanker:
    """Return a ranker of cases that reads their sessions alone."""
    return lambda case, k: retrieve(case.inputs, k)


def without_excluded(retrieve: SessionRanker, exclude_seen: ExcludeSeen) -> SessionRanker:
    """Leave out of a ranking what a bundle with this default leaves out."""

    def retrieve_others(item_ids: Sequence[str], k: int) -> Sequence[RankedItem]:
        excluded = set(item_ids) if exclude_seen is True else set(item_ids[-1:])
        return [item for item in retrieve(item_ids, k + len(excluded)) if item.item_id not in excluded][:k]

    return retrieve_others if exclude_seen in (True, "last") else retrieve
