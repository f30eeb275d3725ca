"""Replay: from a stored answer back to the query that it replied to, to repeat or to continue it."""

from pydantic import ValidationError

from onward.bundle import RetrievalQuery, SessionView
from onward.service.errors import RecommendationGone
from onward.service.recommend.options import RecommendationOptions
from onward.service.records.answers import Answer


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
