"""Endpoint of online metrics: how often answers led to events."""

from typing import Annotated, cast

from fastapi import APIRouter, Query

from onward.service.errors import SessionStoreUnavailable
from onward.service.http.openapi import problems
from onward.service.http.routes.dependencies import PATH_PROBLEMS, RecorderDep
from onward.service.http.schemas.online_metrics import AnswerOutcome, OnlineMetricsQuery, OnlineMetricsReport
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.records.online_metrics import Dimension, OutcomeCounts
from onward.service.sessions import CART, PURCHASE, VIEW

router = APIRouter(route_class=StrictJSONRoute, tags=["metrics"])


@router.get(
    "/v1/metrics/online",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, SessionStoreUnavailable),
)
async def show_online_metrics(
    query: Annotated[OnlineMetricsQuery, Query()], recorder: RecorderDep
) -> OnlineMetricsReport:
    """Report how often answers led to events, attributed by the events' `recommendation_id`."""
    by = cast(list[Dimension], query.by.split(",") if query.by else [])
    report = await recorder.metrics.report(query.window, by)
    dimensions = [dimension for dimension in ("scenario", "bundle", "variant") if dimension in by]
    outcomes = [
        _outcome(dict(zip(dimensions, group, strict=True)), outcome) for group, outcome in report.outcomes.items()
    ]
    return OnlineMetricsReport(
        since=report.since,
        resolution=report.period.name,
        outcomes=sorted(outcomes, key=lambda outcome: -outcome.answers),
        unattributed=report.unattributed,
    )


def _outcome(group: dict[str, str], outcome: OutcomeCounts) -> AnswerOutcome:
    return AnswerOutcome(
        **group,
        answers=outcome.answers,
        impressions=outcome.impressions,
        clicks=outcome.clicks,
        carts=outcome.events.get(CART, 0),
        purchases=outcome.purchases,
        others={kind: count for kind, count in outcome.events.items() if kind not in (VIEW, CART, PURCHASE)},
        values=outcome.values,
        click_through_rate=outcome.click_through_rate,
        conversion_rate=outcome.conversion_rate,
    )
