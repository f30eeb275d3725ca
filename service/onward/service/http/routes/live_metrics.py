"""Endpoints of figures of operation, of recall and of exposure."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from onward.bundle import Bundle
from onward.service import telemetry
from onward.service.errors import NotReady, SessionStoreUnavailable
from onward.service.http.openapi import problems
from onward.service.http.routes.catalog import item_of
from onward.service.http.routes.dependencies import (
    PATH_PROBLEMS,
    CatalogDep,
    LiveDep,
    RecorderDep,
    StoreCheckDep,
    WorkerMetricsDep,
)
from onward.service.http.schemas.live_metrics import (
    Exposure,
    LiveMetrics,
    LiveMetricsQuery,
    OneWorker,
    Recall,
    RouteFigures,
    StoreFigures,
    Tenth,
    UnseenItems,
    UnseenQuery,
    WorkerFigures,
)
from onward.service.http.strict_json import StrictJSONRoute
from onward.service.live.bundle import LiveBundle
from onward.service.live.item_search import Cursor, list_unseen
from onward.service.proportion import proportion
from onward.service.records.exposure import TENTHS
from onward.service.records.exposure import Exposure as StoredExposure
from onward.service.worker_metrics import Figures

LIVE_PATH = "/v1/metrics/live"
OF_OPERATION = ("unmatched", "/metrics", "/health/live", "/health/ready", "/console", LIVE_PATH)
REQUESTS, SECONDS, STORE_SECONDS = "onward_requests_total", "onward_request_seconds", "onward_store_seconds"

router = APIRouter(route_class=StrictJSONRoute, tags=["metrics"])


@router.get(LIVE_PATH, response_model_exclude_none=True, responses=problems(*PATH_PROBLEMS))
async def show_live_metrics(
    query: Annotated[LiveMetricsQuery, Query()], metrics: WorkerMetricsDep, live: LiveDep, check: StoreCheckDep
) -> LiveMetrics:
    """Report what the workers did in the last seconds, each and together, and how good their index is.

    Cheap enough to be asked every two seconds. The figures of other workers lag up to a second.
    """
    telemetry.count_answers()
    total, workers = await metrics.figures(query.window.total_seconds())
    bundle = _digest(live)
    fault = None if check is None else check.fault
    return LiveMetrics(
        seconds=total.seconds,
        bundle=bundle,
        total=_figures(total, bundle),
        workers=[OneWorker(pid=pid, **dict(_figures(figures, bundle))) for pid, figures in workers.items()],
        routes=_routes(total),
        store_misconfigured=None if fault is None else fault.reason,
    )


@router.get("/v1/metrics/exposure", responses=problems(*PATH_PROBLEMS, NotReady, SessionStoreUnavailable))
async def show_exposure(live: LiveDep, recorder: RecorderDep) -> Exposure:
    """Report how many items of the live bundle answers have ever shown, and how popular what they show is."""
    bundle = live.bundle
    exposure = await recorder.exposure.of(bundle.digest, bundle.catalog.items)
    return await asyncio.to_thread(_exposure, bundle, exposure)


@router.get(
    "/v1/items:unseen",
    response_model_exclude_none=True,
    responses=problems(*PATH_PROBLEMS, NotReady, SessionStoreUnavailable),
)
async def list_unseen_items(
    query: Annotated[UnseenQuery, Query()], live: LiveDep, catalog: CatalogDep, recorder: RecorderDep
) -> UnseenItems:
    """List the items of the live bundle that no answer has ever shown, though they may be shown.

    Items that were added since the export are not listed.
    """
    bundle = live.bundle
    start = Cursor.begin(bundle, query.cursor)
    exposure = await recorder.exposure.of(bundle.digest, bundle.catalog.items)
    found, count = await asyncio.to_thread(list_unseen, bundle, exposure.shown_N1, start, query.limit)
    items = [item_of(item_id, bundle, catalog) for item_id in found.item_ids if not catalog.is_deleted(item_id)]
    return UnseenItems(bundle=bundle.digest, items=items, count=count, next_cursor=found.next)


def _digest(live: LiveBundle) -> str | None:
    try:
        return live.bundle.digest
    except NotReady:
        return None


def _figures(figures: Figures, bundle: str | None) -> WorkerFigures:
    statuses = figures.rates(REQUESTS, "status")
    return WorkerFigures(
        requests=sum(statuses.values()),
        statuses=statuses,
        p50_ms=_ms(figures.quantile_s(SECONDS, 0.5, without_routes=OF_OPERATION)),
        p95_ms=_ms(figures.quantile_s(SECONDS, 0.95, without_routes=OF_OPERATION)),
        p99_ms=_ms(figures.quantile_s(SECONDS, 0.99, without_routes=OF_OPERATION)),
        refused=figures.rates("onward_refused_requests_total", "code"),
        degraded=figures.rates("onward_degraded_answers_total", "missing"),
        store=StoreFigures(
            calls=figures.total(f"{STORE_SECONDS}_count") / figures.seconds,
            p50_ms=_ms(figures.quantile_s(STORE_SECONDS, 0.5)),
            p99_ms=_ms(figures.quantile_s(STORE_SECONDS, 0.99)),
            failures=figures.rates("onward_store_failures_total", "reason"),
        ),
        recall=_recall(figures, bundle),
    )


def _recall(figures: Figures, bundle: str | None) -> Recall:
    label = (bundle or "")[: telemetry.BUNDLE_DIGITS]
    answers, found, exact = (
        figures.ever(f"onward_recall_{what}_total", bundle=label) for what in ("answers", "found_items", "exact_items")
    )
    estimate = proportion(found, exact, samples=int(answers))
    return Recall(answers=int(answers), value=estimate.value if exact else None, low=estimate.low, high=estimate.high)


def _routes(figures: Figures) -> list[RouteFigures]:
    routes = [
        RouteFigures(
            method=method,
            route=route,
            requests=count / figures.seconds,
            p50_ms=_ms(figures.quantile_s(SECONDS, 0.5, method=method, route=route)),
            p95_ms=_ms(figures.quantile_s(SECONDS, 0.95, method=method, route=route)),
            p99_ms=_ms(figures.quantile_s(SECONDS, 0.99, method=method, route=route)),
        )
        for method in figures.by(REQUESTS, "method")
        for route in figures.by(REQUESTS, "route")
        if (count := figures.total(REQUESTS, method=method, route=route))
    ]
    return sorted(routes, key=lambda route: -route.requests)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _exposure(bundle: Bundle, exposure: StoredExposure) -> Exposure:
    catalog = bundle.catalog
    may_show_N1 = catalog.eligible().rows_R1[: catalog.items + 1]
    shown_N1 = exposure.shown_N1 & may_show_N1
    ranked = np.array_split(catalog.most_popular_rows, TENTHS)
    items, shown = int(may_show_N1.sum()), int(shown_N1.sum())
    return Exposure(
        bundle=bundle.digest,
        items=items,
        shown=shown,
        coverage=shown / items if items else 0.0,
        tenths=[
            Tenth(items=int(may_show_N1[rows].sum()), shown=int(shown_N1[rows].sum()), impressions=impressions)
            for rows, impressions in zip(ranked, exposure.impressions, strict=True)
        ],
    )
