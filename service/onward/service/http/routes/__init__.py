"""The endpoints: a router for each kind of resource."""

from onward.service.http.routes import (
    catalog,
    items,
    online_metrics,
    operations,
    recommendations,
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
    operations.router,
)

__all__ = ["ROUTERS"]
