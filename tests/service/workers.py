"""Small applications that serve only live items and scenarios, as workers to test with."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from onward.service.background import repeated
from onward.service.http.problems import add_error_handlers
from onward.service.http.routes import catalog as catalog_routes
from onward.service.http.routes import scenarios as scenario_routes
from onward.service.live.bundle import LiveBundle
from onward.service.live.catalog import LiveCatalog
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import InMemoryVersionedStore, VersionedStore
from onward.service.recommend.scenarios import Scenarios
from onward.service.records.audit_log import AuditLog
from tests.service.http.dispatching import dispatching

OFTEN = timedelta(seconds=0.02)


def worker_app(bundles: Path, items: Callable[[], VersionedStore], scenarios: Callable[[], VersionedStore]) -> ASGIApp:
    """Return an application with the endpoints of live items and scenarios, each on its own store."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        item_replica, scenario_replica = Replica(items(), "items"), Replica(scenarios(), "scenarios")
        catalog, named_scenarios = LiveCatalog(item_replica), Scenarios(scenario_replica)
        live = LiveBundle(bundles, catalog)
        await live.refresh()
        async with repeated(live.follow_catalog, OFTEN), repeated(named_scenarios.follow, OFTEN):
            yield {"live": live, "catalog": catalog, "scenarios": named_scenarios, "audit": AuditLog(None)}
        await item_replica.close()
        await scenario_replica.close()

    app = FastAPI(lifespan=lifespan)
    app.include_router(catalog_routes.router)
    app.include_router(scenario_routes.router)
    add_error_handlers(app)
    return dispatching(app)


def memory() -> VersionedStore:
    return InMemoryVersionedStore(max_names=100)
