"""The endpoints: a router for each kind of resource."""

from onward.service.http.routes import (
    audit,
    catalog,
    items,
    jobs,
    live_metrics,
    online_metrics,
    operations,
    recommendations,
    releases,
    scenarios,
    sessions,
    users,
)

ROUTERS = (
    recommendations.fast,
    sessions.fast,
    recommendations.router,
    sessions.router,
    users.router,
    items.router,
    catalog.router,
    scenarios.router,
    online_metrics.router,
    releases.router,
    audit.router,
    live_metrics.router,
    jobs.router,
    operations.router,
)

__all__ = ["ROUTERS"]
