"""Baselines reach the results their authors report. ONWARD_DATA names the folder of public data sets."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onward.training.baselines import BASELINES
from onward.training.baselines.session_knn import SERENADE, VMIS_KNN, SessionKNN, SessionKNNOptions
from onward.training.data.dataset import Dataset
from onward.training.evaluation.cases import EvaluationCase, cases_of
from onward.training.evaluation.evaluation import evaluate
from tests.training.data.conftest import Prepare

REPOSITORY = Path(__file__).parents[3]
DATA = Path(os.environ.get("ONWARD_DATA", REPOSITORY.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"{DATA} is no folder; ONWARD_DATA can name the one with the data sets"
    ),
]


def opened(name: str, folder: Path) -> Dataset:
    source = DATA / name
    return Prepare(folder)([str(source / "train.parquet")], test=[str(source / "test.parquet")])


def serenades_metrics(knn: SessionKNN, cases: list[EvaluationCase]) -> dict[str, float]:
    """MRR@20 and hit rate@20 of the next item; the session's last item is excluded."""
    reciprocals = []
    for case in cases:
        ranking = [item.item_id for item in knn.retrieve(case.inputs, 21) if item.item_id != case.inputs[-1]]
        (target,) = case.targets
        reciprocals.append(1 / (1 + ranking.index(target)) if target in ranking[:20] else 0.0)
    return {"mrr": float(np.mean(reciprocals)), "hit rate": float(np.count_nonzero(reciprocals) / len(cases))}


@pytest.mark.parametrize("form", [VMIS_KNN, SERENADE], ids=["the paper's", "the program's"])
@pytest.mark.parametrize(
    ("last_events", "candidates", "neighbours", "published"),
    [
        (2, 500, 50, {"mrr": 0.3277, "hit rate": 0.6402}),
        (2, 500, 100, {"mrr": 0.3297}),
        (4, 1_502, 288, {"mrr": 0.3401}),
    ],
)
def test_vmis_knn_on_the_sample_of_bol(
    tmp_path: Path,
    form: SessionKNNOptions,
    last_events: int,
    candidates: int,
    neighbours: int,
    published: dict[str, float],
) -> None:
    """The readme of bolcom/serenade: the published metrics of its sample, with their settings."""
    dataset = opened("bol_sample", tmp_path)
    cases = list(cases_of(dataset.sessions("test"), together=False))
    assert len(cases) == 931
    options = replace(form, last_events=last_events, candidates=candidates, neighbours=neighbours)
    metrics = serenades_metrics(SessionKNN(dataset, "test", options=options), cases)
    assert {name: metrics[name] for name in published} == pytest.approx(published, abs=0.003)


@pytest.mark.slow
def test_v_sknn_on_diginetica(tmp_path: Path) -> None:
    """Ludewig et al. report 52.03 / 18.41 for a split of their own with the same number of test days."""
    dataset = opened("diginetica", tmp_path)
    cases = list(cases_of(dataset.sessions("test"), together=False))[::3]
    metrics = evaluate(BASELINES["v-sknn"](dataset, "test").retrieve, cases, items=dataset.info.items)
    assert metrics["recall@20"] == pytest.approx(0.5203, abs=0.015)
    assert metrics["mrr@20"] == pytest.approx(0.1841, abs=0.005)
