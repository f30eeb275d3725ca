"""Bonuses for repeats are chosen on validation, and a bundle scores by them as they were measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from onward.bundle import Bundle, Options, SessionView
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.evaluation.validation import exact_scores
from onward.training.export import repeat_bonuses
from onward.training.export.export import export, load_trained
from onward.training.export.repeat_bonuses import WithRepeats, choose_repeat_bonuses
from onward.training.models.encoder import SessionEncoder


@pytest.fixture
def repeating(run: Path, tmp_path: Path) -> Path:
    """The run, with a recipe that asks for repeats."""
    out = shutil.copytree(run, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    recipe = record["recipe"].replace("[serving]", '[serving]\nrepeats = "validation"')
    (out / "run.json").write_text(json.dumps({**record, "recipe": recipe}))
    return out


def prefer(bonuses: tuple[float, float]) -> Any:
    """Metrics that are best with these bonuses."""

    def metrics(encoder: SessionEncoder, examples: Examples, metric: str, **_: object) -> dict[str, float]:
        assert isinstance(encoder, WithRepeats)
        return {metric: -sum(abs(one - other) for one, other in zip(encoder.info.bonuses, bonuses, strict=True))}

    return metrics


def test_a_bundle_scores_by_the_bonuses_that_were_best(
    repeating: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat_bonuses, "validation_metrics", prefer((0.5, 1.5)))
    steps: list[str] = []
    export([repeating], tmp_path / "bundles", on_step=steps.append)
    assert any(step.startswith("repeats: bonuses (0.5, 1.5), validation ndcg@20 ") for step in steps)
    bundle = Bundle.load(tmp_path / "bundles" / "current")
    assert bundle.manifest.repeats is not None
    assert bundle.manifest.repeats.bonuses == (0.5, 1.5)

    encoder = WithRepeats(load_trained(repeating, dataset).encoder, bundle.manifest.repeats).eval()
    examples = Examples.of([dataset.sessions("validation")], encoder.max_length, torch.device("cpu"))
    ids = dataset.item_ids()
    with torch.inference_mode():
        for number in range(0, len(examples), 10):
            batch = examples.gather(torch.tensor([number]))
            (scores_N,) = exact_scores(encoder, batch, encoder.item_vectors().T)
            session = SessionView([ids[row - 1] for row in batch.items_BL[0].tolist() if row])
            answer = bundle.retrieve(session, Options(5)).items
            assert answer.scores == pytest.approx(scores_N.topk(5).values.tolist(), abs=1e-3)


def test_no_bonus_is_written_where_none_is_best_or_nothing_can_choose(
    repeating: Path, run: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat_bonuses, "validation_metrics", prefer((0.0, 0.0)))
    steps: list[str] = []
    assert choose_repeat_bonuses([repeating], None, 1.0, dataset, steps.append) is None
    shutil.rmtree(repeating / "selection")
    assert choose_repeat_bonuses([repeating], None, 1.0, dataset, steps.append) is None
    assert steps[-1] == "repeats: none, as there is nothing to choose them by on validation"
