"""HTTP in, HTTP out: a router for each kind of thing."""

from service.routes import items, operations, recommendations, sessions

ROUTERS = (recommendations.router, sessions.router, items.router, operations.router)

__all__ = ["ROUTERS"]
