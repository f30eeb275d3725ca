"""Explainer: what each event contributed to each item, which rule moved it, and why an item is missing."""

import asyncio
from collections.abc import Mapping

from onward.bundle import Bundle, RetrievalQuery, SessionView
from onward.bundle.catalog.filters import AndCondition, Filter
from onward.service.errors import RecommendationGone, RecommendationNotFound
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.explanation import (
    AttributeContribution,
    Contribution,
    ExplainedItem,
    Explanation,
    ItemExplanation,
    Reason,
    WhyNot,
)
from onward.service.recommend.replay import is_computed, is_same, repeated_query
from onward.service.records.answers import Answer
from onward.service.records.recorder import Recorder


class Explainer:
    """Explains stored answers by computing them again with the bundle that gave them."""

    def __init__(self, live: LiveBundle, recorder: Recorder) -> None:
        self._live = live
        self._recorder = recorder

    async def explain(self, recommendation_id: str, why_not: str | None) -> Explanation:
        """Explain an answer, and why the item `why_not` is not in it.

        Raises RecommendationNotFound, SessionStoreUnavailable, and RecommendationGone if the bundle was removed or
        the answer would differ now, since the live catalog has changed.
        """
        answers = self._recorder.answers
        answer = None if answers is None else await answers.get(recommendation_id)
        if answer is None:
            raise RecommendationNotFound("No answer with this id is stored, or it has expired.")
        bundle = await self._live.of(answer.bundle)
        if bundle is None:
            raise RecommendationGone("The bundle that gave this answer was removed.")
        popular_now = self._recorder.popularity.scores
        return await asyncio.to_thread(explain_stored, bundle, answer, why_not, popular_now)


def explain_stored(
    bundle: Bundle, answer: Answer, why_not: str | None = None, popular_now: Mapping[str, float] | None = None
) -> Explanation:
    """Explain an earlier answer. Raises RecommendationGone if it would differ now.

    The popular items of an answer are explained as stored; `why_not` ranks an item among today's popular ones.
    """
    query = repeated_query(answer)
    if is_computed(answer):
        repeated = bundle.retrieve(query.session, query.options, user_id=query.user_id)
        if not is_same(repeated.items, answer.items):
            raise RecommendationGone("The live catalog has changed since: this answer cannot be computed again.")
    explanation = explain(bundle, answer)
    if why_not is not None:
        explanation.why_not = _why_not(bundle, answer, query, why_not, popular_now)
    return explanation


def explain(bundle: Bundle, answer: Answer) -> Explanation:
    """Explain an answer that this bundle just gave."""
    query = repeated_query(answer)
    encoded_ids = [item.item_id for item in answer.items if item.source == "encoder"]
    contributions = bundle.contributions(query, encoded_ids)
    by_attribute = bundle.attribute_contributions(query, encoded_ids)
    items = []
    for rank, item in enumerate(answer.items, start=1):
        explained = ExplainedItem(
            id=item.item_id,
            rank=rank,
            score=item.score,
            source=item.source,
            interest=item.interest,
            boost=None if item.details is None else item.details.log_boost or None,
            place_before_diversity=None if item.details is None else item.details.rank,
        )
        if item.item_id in contributions:
            explained.contributions = _largest_first(query.session, contributions[item.item_id])
        if item.item_id in by_attribute:
            explained.content = _largest_attributes_first(by_attribute[item.item_id])
        items.append(explained)
    return Explanation(
        recommendation_id=answer.id,
        bundle=bundle.digest,
        session=list(answer.session_items),
        items=items,
    )


def explain_item(
    bundle: Bundle, answer: Answer, item_id: str, popular_now: Mapping[str, float] | None = None
) -> ItemExplanation:
    """Explain the place of an item in an answer that this bundle just gave, or why it is not there."""
    query = repeated_query(answer)
    why = _why_not(bundle, answer, query, item_id, popular_now)
    explanation = ItemExplanation(**why.model_dump(), bundle=bundle.digest, session=list(answer.session_items))
    if item_id in bundle.catalog and why.reason != "deleted":
        contributions = bundle.contributions(query, [item_id])
        by_attribute = bundle.attribute_contributions(query, [item_id])
        if item_id in contributions:
            explanation.contributions = _largest_first(query.session, contributions[item_id])
        if item_id in by_attribute:
            explanation.content = _largest_attributes_first(by_attribute[item_id])
    return explanation


def _largest_first(session: SessionView, contributions: list[float]) -> list[Contribution]:
    by_event = [
        Contribution(item_id=item_id, place=place, contribution=contribution)
        for place, (item_id, contribution) in enumerate(zip(session.item_ids, contributions, strict=True))
    ]
    return sorted(by_event, key=lambda event: -event.contribution)


def _largest_attributes_first(contributions: Mapping[str, float]) -> list[AttributeContribution]:
    by_size = sorted(contributions.items(), key=lambda named: -named[1])
    return [AttributeContribution(attribute=name, contribution=contribution) for name, contribution in by_size]


def _why_not(
    bundle: Bundle, answer: Answer, query: RetrievalQuery, item_id: str, popular_now: Mapping[str, float] | None
) -> WhyNot:
    for rank, item in enumerate(answer.items, start=1):
        if item.item_id == item_id:
            return WhyNot(id=item_id, reason="shown", rank=rank, score=item.score)
    rule = bundle.rule_against(item_id, query)
    if rule is not None:
        condition = _unmet_condition(bundle, item_id, query.options.filter) if rule == "filtered" else None
        specific = _specific_reason(bundle, rule, answer, query, item_id)
        return WhyNot(id=item_id, reason=specific, condition=condition)
    item_rank = bundle.item_rank(item_id, query, popular_now=popular_now)
    # Each pinned item that ranks below the item moves it one place down.
    pins = [item.item_id for item in answer.items if item.source == "pinned" and item.score < item_rank.score]
    rank_with_pins = item_rank.rank + len(pins)
    reason: Reason = "outranked"
    if item_rank.rank <= query.options.k < rank_with_pins:
        reason = "pin"
    elif rank_with_pins <= query.options.k and query.options.diversity:
        reason = "diversity"
    return WhyNot(
        id=item_id,
        reason=reason,
        rank=item_rank.rank,
        score=item_rank.score,
        pins=pins if reason == "pin" else None,
    )


def _unmet_condition(bundle: Bundle, item_id: str, item_filter: Filter | None) -> str | None:
    """Return the location of the first condition that an item does not meet; `or` and `not` count as one condition."""
    row = bundle.catalog.row(item_id)
    if row is None or item_filter is None:
        return None
    location, condition = ["filter"], item_filter.root
    while isinstance(condition, AndCondition):
        number = next(
            place for place, part in enumerate(condition.and_) if not bundle.catalog.eligible(Filter(part)).rows_R1[row]
        )
        location, condition = [*location, "and", str(number)], condition.and_[number]
    return ".".join(location)


def _specific_reason(bundle: Bundle, rule: Reason, answer: Answer, query: RetrievalQuery, item_id: str) -> Reason:
    """Say why an item is unavailable, or excluded: by the caller, or by what the visitor did."""
    if rule == "unavailable" and bundle.catalog.lacks_vector(item_id):
        return "no_vector"
    if rule != "excluded":
        return rule
    if item_id in answer.shown_before:
        return "shown_before"
    if item_id in answer.options.get("exclude", ()):
        return "excluded"
    if item_id in query.session.hidden:
        return "disliked"
    return "purchased" if item_id in query.session.purchased else "seen"
