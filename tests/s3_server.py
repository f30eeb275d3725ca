"""A private S3 server for tests: that of moto, on a free port, which can go away, come back, and refuse credentials."""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
from moto.core.base_backend import BackendDict
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

if TYPE_CHECKING:
    import pytest

BUCKET = "shop"
REFUSAL = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused</Message></Error>"
logging.getLogger("werkzeug").setLevel(logging.ERROR)


class S3Server:
    """Serves one bucket in the memory of this process; what it holds outlives `stop`."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """What every request is answered with, as in ExpiredToken; None to serve."""
        self.conflicts = 0
        """How many conditional writes are answered as S3 answers those that come at once."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Listen, at the same port as before if it was stopped."""
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        is_conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
        if self.conflicts and environ["REQUEST_METHOD"] == "PUT" and is_conditional:
            self.conflicts -= 1
            return _refused(environ, start_response, "409 Conflict", "ConditionalRequestConflict")
        if self.refusal is not None:
            status = "400 Bad Request" if self.refusal == "ExpiredToken" else "403 Forbidden"
            return _refused(environ, start_response, status, self.refusal)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


def _refused(environ: WSGIEnvironment, start_response: StartResponse, status: str, code: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response(status, [("Content-Type", "application/xml")])
    return [REFUSAL.format(code=code).encode()]


def make_bucket(server: S3Server) -> None:
    """Make the bucket that tests use."""
    httpx.put(f"{server.url}/{BUCKET}").raise_for_status()


@contextmanager
def s3_server(monkeypatch: "pytest.MonkeyPatch") -> Iterator[S3Server]:
    """Run a server with an empty bucket, which the environment of this process names."""
    backends: BackendDict[Any] = s3_backends
    backends.reset()
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    make_bucket(server)
    try:
        yield server
    finally:
        server.stop()
