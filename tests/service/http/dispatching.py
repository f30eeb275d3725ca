"""Small applications behind the dispatcher of the service, to test with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.types import ASGIApp

from onward.service.http.admission.admission import Admission
from onward.service.http.cors import CORS
from onward.service.http.dispatcher import Dispatcher
from onward.service.keys import key_ring
from onward.service.settings import Settings


def dispatching(app: ASGIApp, *routers: APIRouter, cors: Iterable[str] = (), **settings: Any) -> Dispatcher:
    """Return an application behind the dispatcher, which answers the fast routes of these routers."""
    deployment = Settings(bundles=Path(), cors_origins=tuple(cors), **settings)
    return Dispatcher(
        app,
        routers=routers,
        admission=Admission(deployment, key_ring(deployment.api_keys, deployment.keys_file)),
        cors=CORS(deployment.cors_origins, beacon_paths=("/v1/events", "/events")),
        max_body_bytes=deployment.max_body,
        trusted_proxies=None if deployment.rate_limit is None else "127.0.0.1, testclient",
    )
