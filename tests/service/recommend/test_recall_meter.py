"""The recall meter compares some answers with an exact search, and never under load."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from onward.bundle import Bundle, Options, SessionView
from onward.service import telemetry
from onward.service.live.bundle import LiveBundle
from onward.service.proportion import proportion
from onward.service.recommend import recall_meter
from onward.service.recommend.recall_meter import RecallMeter, overlap_with_exact
from onward.service.records.answers import Answer
from tests.bundles import item_ids, make_bundle, publish_bundle

IDS = item_ids("item-", 400)
SESSION = ("item-7", "item-9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, IDS, dimension=16)
    return folder


@pytest.fixture
async def live(folder: Path) -> LiveBundle:
    live = LiveBundle(folder)
    await live.refresh()
    return live


def answered(by: Bundle, **fields: object) -> Answer:
    items = by.retrieve(SessionView(SESSION), Options(10)).items
    answer = Answer("", 0, by.digest, items, session_items=SESSION, options={"k": 10})
    return replace(answer, **fields)  # type: ignore[arg-type]  # those of an answer


def measured(bundle: Bundle) -> tuple[float, float, float]:
    """Return the answers measured, and the items found and to find, of this process."""
    label = {"bundle": bundle.digest[: telemetry.BUNDLE_DIGITS]}
    names = ("answers", "found_items", "exact_items")
    answers, found, exact = (REGISTRY.get_sample_value(f"onward_recall_{name}_total", label) or 0 for name in names)
    return answers, found, exact


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("onward_recall_dropped_total", {"reason": reason}) or 0


async def test_one_answer_in_so_many_is_compared(live: LiveBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_meter, "MAX_LAG_S", 60.0)
    before, answer = measured(live.bundle), answered(live.bundle)
    meter = RecallMeter(live, every=10)
    for count in (4, 5):
        meter.answered(count, answer)
        await meter.close()
    assert measured(live.bundle) == before
    meter.answered(3, answer)
    await meter.close()
    assert measured(live.bundle) == (before[0] + 1, before[1] + 10, before[2] + 10)
    label = {"bundle": live.bundle.digest[: telemetry.BUNDLE_DIGITS]}
    assert REGISTRY.get_sample_value("onward_recall_high", label) == pytest.approx(1.0)


async def test_none_is_compared_under_load_or_soon_after_another(
    live: LiveBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_meter, "MAX_LAG_S", -1.0)
    before, load, resting = measured(live.bundle), dropped("load"), dropped("resting")
    meter, answer = RecallMeter(live, every=1), answered(live.bundle)
    meter.answered(1, answer)
    meter.answered(1, answer)
    await meter.close()
    assert (measured(live.bundle), dropped("load"), dropped("resting")) == (before, load + 1, resting + 1)
    monkeypatch.setattr(recall_meter, "MAX_LAG_S", 60.0)
    monkeypatch.setattr(recall_meter, "REST", 1e9)
    for _ in range(3):
        meter.answered(1, answer)
        await meter.close()
    assert (measured(live.bundle)[0], dropped("resting")) == (before[0] + 1, resting + 3)


async def test_only_answers_of_a_plain_search_by_the_live_bundle_are_compared(live: LiveBundle) -> None:
    before, meter, bundle = measured(live.bundle), RecallMeter(live, every=1), live.bundle
    popular = bundle.popular(Options(5)).items
    for answer in (
        answered(bundle, bundle="0" * 64),
        answered(bundle, changes_version=7),
        answered(bundle, items=popular),
        answered(bundle, options={"k": 10, "exact": True}),
        answered(bundle, options={"k": 10, "diversity": 0.5}),
        answered(bundle, options={"unknown": 1}),
    ):
        meter.answered(1, answer)
        await meter.close()
    assert measured(bundle) == before


def test_the_overlap_is_that_with_the_true_best_items(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", IDS, dimension=16, index="IVF16,Flat", nprobe=1)
    overlaps = []
    for item in range(0, 400, 20):
        session = (IDS[item],)
        items = bundle.retrieve(SessionView(session), Options(10)).items
        scores_N = (bundle.vectors_N1D[1:] @ bundle.encoder.encode([item + 1]).T).max(axis=1)
        best = {IDS[row] for row in np.argsort(-scores_N, kind="stable")[:10]}
        overlap = overlap_with_exact(bundle, answered(bundle, items=items, session_items=session))
        assert overlap == (len({*items.item_ids} & best), 10)
        overlaps.append(overlap.found)
    assert min(overlaps) < 10


def test_an_interval_covers_the_proportion() -> None:
    estimate = proportion(90, 100, samples=10)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-3)
    assert proportion(100, 100, samples=1000)[:2] == pytest.approx((1.0, 0.9962), abs=1e-4)
    assert proportion(0, 0, samples=0)[1:] == (0.0, 1.0)
