"""An answer that is kept -> what it was given to, so that it can be given again, or gone on with."""

from onward.bundle import RetrievalQuery, SessionView
from onward.service.recommend.options import RecommendationOptions
from onward.service.records.answers import Answer


def wanted_of(answer: Answer) -> RetrievalQuery:
    """Return the session, the options and the user of an answer."""
    options = options_of(answer).as_options(exclude=answer.options.get("exclude", ()))
    return RetrievalQuery(SessionView(answer.session_items, answer.purchased, answer.hidden), options, answer.user_id)


def options_of(answer: Answer) -> RecommendationOptions:
    """Return the options of an answer, but for the items that its caller excluded."""
    given = {name: value for name, value in answer.options.items() if name != "exclude"}
    return RecommendationOptions.model_validate(given)
