"""Evaluation measures the diversity of a bundle's rankings, and re-ranking increases it."""

import pytest

from onward.bundle import Bundle
from onward.training.errors import InputError
from onward.training.evaluation.cases import EvaluationCase
from onward.training.evaluation.diversity import categories_of, diversified
from onward.training.evaluation.evaluation import evaluate_cases, served_by
from tests.bundles import item_ids, make_bundle

IDS = item_ids("i", 60)
SHELVES = [{"shelf": number % 4} if number < 50 else {} for number in range(60)]
ASKED = [EvaluationCase([item], [target]) for item, target in zip(IDS[:20], IDS[20:40], strict=True)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b", IDS, attributes=SHELVES, interests=2)


def diversity_at_10(bundle: Bundle, weight: float) -> float:
    categories = categories_of(bundle.catalog, "shelf")
    ranker = served_by(bundle, exact=True)
    metrics = evaluate_cases(
        diversified(ranker, categories, interests=2, weight=weight) if weight else ranker,
        ASKED,
        items=len(IDS),
        ks=[10],
        categories=categories,
    )
    return metrics["diversity@10"]


def test_items_of_one_value_share_a_category_and_so_do_items_without_any(bundle: Bundle) -> None:
    categories = categories_of(bundle.catalog, "shelf")
    assert len(set(categories.values())) == 5
    assert categories["i1"] == categories["i5"] != categories["i2"]
    assert categories["i51"] == categories["i60"] != categories["i1"]


def test_an_unknown_attribute_is_an_error_that_lists_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"--category colour: no item of the bundle has this attribute; .*: shelf"):
        categories_of(bundle.catalog, "colour")


def test_a_higher_weight_makes_lists_more_diverse_up_to_the_maximum(bundle: Bundle) -> None:
    plain, some, much = (diversity_at_10(bundle, weight) for weight in (0, 0.25, 1))
    assert plain < some <= much
    assert much == pytest.approx(1 - 5 * 2 / (10 * 9))  # ten places, five categories, each twice


def test_reranked_items_are_scored_by_their_place(bundle: Bundle) -> None:
    ranker = served_by(bundle, exact=True)
    categories = categories_of(bundle.catalog, "shelf")
    (answers,) = diversified(ranker, categories, interests=2, weight=0.5)([EvaluationCase(["i3"], [])], 6)
    assert [item.score for item in answers] == [0, -1, -2, -3, -4, -5]
    assert answers[0].item_id == ranker([EvaluationCase(["i3"], [])], 1)[0][0].item_id
    assert len({item.item_id for item in answers}) == 6
