"""Why an answer is as it is: what each event did for each item, which rule moved it, and why an item is not there."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from onward.bundle import Bundle, RetrievedItems, SessionView
from onward.bundle.catalog.filters import And, Filter
from onward.bundle.search.retrieval import RetrievalQuery
from onward.service.errors import RecommendationGone, RecommendationNotFound
from onward.service.http.schemas.explanations import Contribution, ExplainedItem, Explanation, Reason, WhyNot
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.replay import wanted_of
from onward.service.records.answers import Answer
from onward.service.records.recorder import Recorder

COMPUTED = frozenset({"encoder", "similar"})
ROUNDING = 1e-4
"""Of the largest score: what another processor, or encoding a session among others, may change."""


class Explainer:
    """Explains answers that are kept, by giving them again with the bundle that gave them."""

    def __init__(self, live: LiveBundle, recorder: Recorder) -> None:
        self._live = live
        self._recorder = recorder

    async def explain(self, recommendation_id: str, why_not: str | None) -> Explanation:
        """Explain an answer.

        Raises RecommendationNotFound, SessionStoreUnavailable, and RecommendationGone where the answer would be
        another one now, as its bundle is gone or the live catalog has changed.
        """
        answers = self._recorder.answers
        answer = None if answers is None else await answers.get(recommendation_id)
        if answer is None:
            raise RecommendationNotFound("No such answer is kept, or it is kept no longer.")
        bundle = await self._live.of(answer.bundle)
        if bundle is None:
            raise RecommendationGone("The bundle that gave this answer is gone.")
        popular_now = self._recorder.popularity.scores()
        return await asyncio.to_thread(explained_again, bundle, answer, why_not, popular_now)


def explained_again(
    bundle: Bundle, answer: Answer, why_not: str | None = None, popular_now: Mapping[str, float] | None = None
) -> Explanation:
    """Explain an answer that was given earlier. Raises RecommendationGone where it would be another one now.

    Of popular items the list stays what it was, and an item that it does not show stands where it would by now.
    """
    wanted = _wanted_again(answer)
    if not COMPUTED.isdisjoint(answer.items.sources):
        again = bundle.retrieve(wanted.seen, wanted.options, user_id=wanted.user_id)
        if not _is_same(again.items, answer.items):
            raise RecommendationGone("The live catalog has changed since: this answer cannot be given again.")
    explanation = explained(bundle, answer)
    if why_not is not None:
        explanation.why_not = _why_not(bundle, answer, wanted, why_not, popular_now)
    return explanation


def _is_same(again: RetrievedItems, answered: RetrievedItems) -> bool:
    """Whether an answer comes out as it was, but for rounding."""
    if (again.item_ids, again.sources) != (answered.item_ids, answered.sources):
        return False
    tolerance = ROUNDING * max(map(abs, answered.scores))
    return all(abs(one - other) <= tolerance for one, other in zip(again.scores, answered.scores, strict=True))


def explained(bundle: Bundle, answer: Answer) -> Explanation:
    """Explain an answer of this bundle."""
    wanted = _wanted_again(answer)
    shown = [item.item_id for item in answer.items if item.source == "encoder"]
    contributions = bundle.contributions(wanted, shown)
    items = []
    for rank, item in enumerate(answer.items, start=1):
        explained_item = ExplainedItem(
            id=item.item_id,
            rank=rank,
            score=item.score,
            source=item.source,
            interest=item.interest,
            boost=None if item.details is None else item.details.log_boost or None,
            place_before_diversity=None if item.details is None else item.details.rank,
        )
        if item.item_id in contributions:
            explained_item.contributions = _largest_first(wanted.seen, contributions[item.item_id])
        items.append(explained_item)
    return Explanation(
        recommendation_id=answer.id,
        bundle=bundle.digest,
        session=list(answer.session_items),
        items=items,
    )


def _wanted_again(answer: Answer) -> RetrievalQuery:
    """What an answer was given to; a next page does not show what those before it did."""
    wanted = wanted_of(answer)
    exclude = (*wanted.options.exclude, *answer.shown_before)
    return wanted._replace(options=replace(wanted.options, exclude=exclude))


def _largest_first(seen: SessionView, contributions: list[float]) -> list[Contribution]:
    of_places = [
        Contribution(item_id=item_id, place=place, contribution=contribution)
        for place, (item_id, contribution) in enumerate(zip(seen.item_ids, contributions, strict=True))
    ]
    return sorted(of_places, key=lambda one: -one.contribution)


def _why_not(
    bundle: Bundle, answer: Answer, wanted: RetrievalQuery, item_id: str, popular_now: Mapping[str, float] | None
) -> WhyNot:
    for rank, item in enumerate(answer.items, start=1):
        if item.item_id == item_id:
            return WhyNot(id=item_id, reason="shown", rank=rank, score=item.score)
    rule = bundle.rule_against(item_id, wanted)
    if rule is not None:
        condition = _unmet(bundle, item_id, wanted.options.filter) if rule == "filtered" else None
        return WhyNot(id=item_id, reason=_refined(rule, answer, wanted, item_id), condition=condition)
    item_rank = bundle.item_rank(item_id, wanted, popular_now=popular_now)
    reason: Reason = "diversity" if item_rank.rank <= wanted.options.k and wanted.options.diversity else "outranked"
    return WhyNot(id=item_id, reason=reason, rank=item_rank.rank, score=item_rank.score)


def _unmet(bundle: Bundle, item_id: str, whole: Filter | None) -> str | None:
    """Where in a filter the first condition stands that an item does not meet; what is within `or` and `not` is one."""
    row = bundle.catalog.row(item_id)
    if row is None or whole is None:
        return None
    place, condition = ["filter"], whole.root
    while isinstance(condition, And):
        unmet = (n for n, one in enumerate(condition.and_) if not bundle.catalog.eligible(Filter(one)).rows_R1[row])
        number = next(unmet)
        place, condition = [*place, "and", str(number)], condition.and_[number]
    return ".".join(place)


def _refined(rule: Reason, answer: Answer, wanted: RetrievalQuery, item_id: str) -> Reason:
    """Say why an item is excluded: by the caller, or by what the visitor did."""
    if rule != "excluded":
        return rule
    if item_id in answer.shown_before:
        return "shown_before"
    if item_id in answer.options.get("exclude", ()):
        return "excluded"
    if item_id in wanted.seen.hidden:
        return "disliked"
    return "purchased" if item_id in wanted.seen.purchased else "seen"
