"""The gate before a staged bundle goes live: it must not be below the live bundle, nor below baselines, the floor.

All rules and their defaults are in `gate.toml`.

All are asked about the newest sessions of the dataset's test part, bundles through their index as served. The test part
and not the validation part, because most recipes end with a fit that has learned from the latter. Answers of all leave
out what those of the bundle leave out by default, such as the item at hand: that is a choice, not a loss.

A metric is below another one if its difference, by the paired test over sessions, is below minus a margin times the
other one with 97.5 % confidence.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onward.bundle import Bundle, Comparison, GateReport, current_digest, report_file
from onward.bundle.release_record import ReleaseRecord
from onward.training.atomic_file import write_text
from onward.training.baselines import BASELINES
from onward.training.data.dataset import Dataset, PartName
from onward.training.errors import InputError
from onward.training.evaluation.cases import (
    BatchRanker,
    EvaluationCase,
    held_out_cases,
    one_by_one,
    session_of_cases,
)
from onward.training.evaluation.evaluation import (
    Rankings,
    by_session,
    concentration,
    events_before,
    ranked_cases,
    served_by,
    without_excluded,
)
from onward.training.evaluation.gate_rules import AccuracyRules, GateRules
from onward.training.evaluation.paired_test import example_values, paired_difference
from onward.training.evaluation.slices import accuracy_by_slice
from onward.training.progress import counting

FLOOR = ("popularity", "popularity-in-session", "item-to-item", "vmis-knn")
"""The baselines by which `fit` measures its candidates; those of the gate are in its rules."""
K = 20
BUNDLE, LIVE = "bundle", "live"
PART: PartName = "test"


def gate(bundles: Path, digest: str, data: Path) -> GateReport:
    """Compare a bundle with the live one and the floor, store the report beside it, and return it.

    Args:
        bundles: the folder of bundles.
        digest: the bundle.
        data: a dataset that holds out what the bundle must not have learned from.

    Raises:
        InputError: the dataset has no test part, or too few sessions in it, or `gate.toml` is not valid.
        BundleError: a bundle is damaged.
    """
    dataset, rules = Dataset.open(data), GateRules.of(bundles)
    cases, session_E = _newest(dataset, rules.accuracy)
    bundle, live = Bundle.load(bundles / digest), current_digest(bundles)
    exclude_seen = bundle.manifest.defaults.exclude_seen
    rankings = {BUNDLE: _rankings(BUNDLE, served_by(bundle, exclude_seen=exclude_seen), cases)}
    live_bundle = None
    if live is not None and live != digest:
        live_bundle = Bundle.load(bundles / live)
        rankings[LIVE] = _rankings(LIVE, served_by(live_bundle, exclude_seen=exclude_seen), cases)
    for name in rules.accuracy.floor:
        retrieve = without_excluded(BASELINES[name](dataset, PART).retrieve, exclude_seen)
        rankings[name] = _rankings(name, one_by_one(by_session(retrieve)), cases)
    values = {name: example_values(of.ranks, K) for name, of in rankings.items()}
    popularity = events_before(dataset, PART)
    report = GateReport(
        created=datetime.now(UTC),
        bundle=digest,
        live=live,
        data_fingerprint=dataset.info.fingerprint,
        part=PART,
        sessions=len(np.unique(session_E)),
        examples=len(cases),
        figures={name: {metric: float(of.mean()) for metric, of in values[name].items()} for name in values},
        comparisons=tuple(
            _comparison(values[BUNDLE][metric], name, metric, values[name][metric], session_E, rules.accuracy.margin)
            for name in values
            if name != BUNDLE
            for metric in values[name]
        ),
        rules=rules.applied(
            bundle, ReleaseRecord.read(bundles, digest), rankings[BUNDLE], live_bundle, rankings.get(LIVE)
        ),
        slices={name: accuracy_by_slice(cases, of.ranks, popularity) for name, of in rankings.items()},
        concentration={
            name: concentration(of.lists, cases, popularity, bundle.manifest.items) for name, of in rankings.items()
        },
    )
    write_text(report_file(bundles, digest), report.model_dump_json(indent=2) + "\n")
    return report


def _newest(dataset: Dataset, rules: AccuracyRules) -> tuple[list[EvaluationCase], NDArray[np.int64]]:
    """Return the cases of the newest sessions, and the session of each."""
    cases = held_out_cases(dataset, PART)
    session_E = session_of_cases(dataset.sessions(PART), together=dataset.info.targets == "together")
    newest = np.unique(session_E)[-rules.newest_sessions :]
    if len(newest) < rules.fewest_sessions:
        raise InputError(
            f"{dataset.folder}: {len(newest)} test sessions are too few to compare bundles, "
            f"{rules.fewest_sessions} are the fewest; hold out more, for example with --test-share"
        )
    first = int(np.searchsorted(session_E, newest[0]))
    return cases[first:], session_E[first:]


def _rankings(name: str, ranker: BatchRanker, cases: Sequence[EvaluationCase]) -> Rankings:
    with counting(name, len(cases)) as count:
        return ranked_cases(ranker, cases, K, on_answer=count)


def _comparison(
    values_E: NDArray[np.float64],
    reference: str,
    metric: str,
    others_E: NDArray[np.float64],
    session_E: NDArray[np.int64],
    margin: float,
) -> Comparison:
    difference, low, high = paired_difference(values_E, others_E, session_E)
    passed = high >= -margin * float(others_E.mean())
    return Comparison(reference=reference, metric=metric, difference=difference, low=low, high=high, passed=passed)
