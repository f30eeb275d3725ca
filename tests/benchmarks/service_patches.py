"""The functions of the service that benchmarks replace, all named here: adapt them when the service renames its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from onward.bundle.encoder.encoder import Program
from onward.bundle.encoder.kernel import Kernel
from onward.bundle.search.faiss_index import FaissIndex
from onward.service import telemetry
from onward.service.http import fast_route
from onward.service.http.dispatcher import Dispatcher
from onward.service.http.routes import recommendations
from onward.service.recommend.pipeline import Pipeline
from onward.service.records.recorder import Recorder
from onward.service.sessions import EventQueue, RedisSessionStore


class PatchPoint(NamedTuple):
    """An attribute of the service that can be replaced."""

    owner: Any
    name: str

    def replace(self, replacement: object) -> Any:
        """Return a patch of the attribute: a context manager with `start` and `stop`."""
        return patch.object(self.owner, self.name, replacement)


(_FAST_ROUTE,) = recommendations.fast.routes

HANDLE_REQUEST = PatchPoint(Dispatcher, "respond")
"""Everything behind HTTP; a coroutine."""
VALIDATE_BODY = PatchPoint(_FAST_ROUTE.body_field, "validate")  # type: ignore[attr-defined]  # a FastRoute has one
PARSE_BODY = PatchPoint(fast_route, "parse_body")
RECOMMEND = PatchPoint(Pipeline, "recommend")
"""Session store, encoder, search, items and record of one request; a coroutine."""
APPEND_SESSIONS = PatchPoint(RedisSessionStore, "append_all")
"""The store's call for a batch; a coroutine with a result for each session."""
NOTIFY_LISTENERS = PatchPoint(EventQueue, "applied")
ENCODE = (PatchPoint(Program, "encode_all"), PatchPoint(Kernel, "encode_all"))
"""The encoder's two engines, for a batch."""
SEARCH = PatchPoint(FaissIndex, "search")
RECORD_ANSWER = PatchPoint(Recorder, "served")
SERIALIZE_ANSWER = PatchPoint(recommendations, "recommendation_json")
TELEMETRY = (
    PatchPoint(telemetry, "answered"),
    PatchPoint(telemetry, "retrieved"),
    PatchPoint(telemetry, "store_answered"),
)
REQUEST_ID = PatchPoint(telemetry, "new_request_id")
"""Makes the id of a request whose client sent none."""

NO_REQUEST_ID = "no-telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Serve without metrics, log lines and generated request ids."""
    with ExitStack() as patches:
        for point in TELEMETRY:
            patches.enter_context(point.replace(_do_nothing))
        patches.enter_context(REQUEST_ID.replace(lambda: NO_REQUEST_ID))
        yield


def _do_nothing(*_: object) -> None:
    pass
