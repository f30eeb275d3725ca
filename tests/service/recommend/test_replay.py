"""The query of a stored answer is made again, or the answer is gone."""

from typing import Any

import pytest

from onward.bundle import RetrievedItems
from onward.service.errors import RecommendationGone
from onward.service.recommend.replay import options_of, retrieval_query_of
from onward.service.records.answers import Answer


def stored(options: dict[str, Any]) -> Answer:
    return Answer("", 0, "", RetrievedItems(), options=options)


def test_the_options_are_those_of_the_request() -> None:
    answer = stored({"k": 3, "exclude": ["a"], "exclude_seen": "purchased"})
    options = retrieval_query_of(answer).options
    assert (options.k, options.exclude, options.exclude_seen) == (3, ["a"], "purchased")


@pytest.mark.parametrize("options", [{"k": 300}, {"of a later version": 1}, {"filter": {"attribute": "a"}}])
def test_an_answer_whose_options_cannot_be_read_is_gone(options: dict[str, Any]) -> None:
    with pytest.raises(RecommendationGone):
        options_of(stored(options))
