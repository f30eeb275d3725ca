"""Replay: from a stored answer back to the query that it replied to, to repeat or to continue it."""

from dataclasses import replace

from pydantic import ValidationError

from onward.bundle import RetrievalQuery, RetrievedItems, SessionView
from onward.service.errors import RecommendationGone
from onward.service.recommend.options import RecommendationOptions
from onward.service.records.answers import Answer

COMPUTED = frozenset({"encoder", "similar"})
"""Sources of items that do not depend on what is popular at the time."""
TOLERANCE = 1e-4
"""Of the largest score: how much another processor, or encoding the session in another batch, may change scores."""


def repeated_query(answer: Answer) -> RetrievalQuery:
    """Return the query that an answer replied to; a next page excludes what the pages before it showed.

    Raises RecommendationGone.
    """
    query = retrieval_query_of(answer)
    exclude = (*query.options.exclude, *answer.shown_before)
    return query._replace(options=replace(query.options, exclude=exclude))


def is_computed(answer: Answer) -> bool:
    """Return whether items of an answer can be computed again."""
    return not COMPUTED.isdisjoint(answer.items.sources)


def is_same(repeated: RetrievedItems, answered: RetrievedItems) -> bool:
    """Return whether two answers are equal except for rounding."""
    if (repeated.item_ids, repeated.sources) != (answered.item_ids, answered.sources):
        return False
    tolerance = TOLERANCE * max(map(abs, answered.scores), default=0.0)
    return all(abs(now - then) <= tolerance for now, then in zip(repeated.scores, answered.scores, strict=True))


def retrieval_query_of(answer: Answer) -> RetrievalQuery:
    """Return the session, the options and the user of an answer. Raises RecommendationGone."""
    options = options_of(answer).as_options(exclude=answer.options.get("exclude", ()))
    session = SessionView(answer.session_items, answer.purchased, answer.hidden)
    return RetrievalQuery(session, options, answer.user_id)


def options_of(answer: Answer) -> RecommendationOptions:
    """Return the options of an answer, without the items that its caller excluded.

    Raises RecommendationGone for options that this version does not have, or that are damaged.
    """
    options = {name: value for name, value in answer.options.items() if name != "exclude"}
    try:
        return RecommendationOptions.model_validate(options)
    except ValidationError as error:
        raise RecommendationGone("The stored options of this answer cannot be read.") from error
