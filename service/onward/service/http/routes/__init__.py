"""HTTP in, HTTP out: a router for each kind of thing."""

from onward.service.http.routes import catalog, items, metrics, operations, recommendations, scenarios, sessions

ROUTERS = (
    recommendations.hot,
    sessions.hot,
    recommendations.router,
    sessions.router,
    items.router,
    catalog.router,
    scenarios.router,
    metrics.router,
    operations.router,
)

__all__ = ["ROUTERS"]
