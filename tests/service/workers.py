"""Workers that serve live items and scenarios alone."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from onward.service.background import repeated
from onward.service.http.path_ids import EncodedSlashes
from onward.service.http.problems import add_error_handlers
from onward.service.http.routes import catalog as catalog_routes
from onward.service.http.routes import scenarios as scenario_routes
from onward.service.live.bundle import LiveBundle
from onward.service.live.catalog import LiveCatalog
from onward.service.live.replicated_map import InMemoryVersionedStore, Replica, VersionedStore
from onward.service.recommend.scenarios import Scenarios

OFTEN = timedelta(seconds=0.02)


def worker_app(bundles: Path, items: Callable[[], VersionedStore], scenarios: Callable[[], VersionedStore]) -> FastAPI:
    """The endpoints of live items and scenarios alone, as one worker."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        item_mirror, scenario_mirror = Replica(items(), "items"), Replica(scenarios(), "scenarios")
        catalog, named = LiveCatalog(item_mirror), Scenarios(scenario_mirror)
        live = LiveBundle(bundles, catalog)
        await live.refresh()
        async with repeated(live.follow_catalog, OFTEN), repeated(named.follow, OFTEN):
            yield {"live": live, "catalog": catalog, "scenarios": named}
        await item_mirror.close()
        await scenario_mirror.close()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(EncodedSlashes)
    app.include_router(catalog_routes.router)
    app.include_router(scenario_routes.router)
    add_error_handlers(app)
    return app


def memory() -> VersionedStore:
    return InMemoryVersionedStore(max_names=100)
