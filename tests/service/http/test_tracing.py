"""A span of each request reaches a collector, with its stages, and the spans of a caller's trace go together."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from onward.service.http.tracing import TracingError, is_asked_for, require_traceable
from tests.bundles import publish_bundle
from tests.service.process import ServiceProcess, wait_until

IDS = [f"a-{number}" for number in range(20)]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER_KIND, ERROR = 2, 2


class Collector:
    """Takes spans by OTLP over HTTP; answers after a time if it is slow."""

    def __init__(self, slow_s: float = 0) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(slow_s)
                collector.requests.append(ExportTraceServiceRequest.FromString(content))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name of the base class
                pass

        self.requests: list[ExportTraceServiceRequest] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[Any]:
        scopes = (scope for request in self.requests for spans in request.resource_spans for scope in spans.scope_spans)
        return [span for scope in scopes for span in scope.spans]

    @property
    def resource(self) -> dict[str, str]:
        return {a.key: a.value.string_value for a in self.requests[0].resource_spans[0].resource.attributes}


@contextmanager
def collecting(slow_s: float = 0) -> Iterator[Collector]:
    collector = Collector(slow_s)
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_span_of_each_request_reaches_the_collector(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        with (
            ServiceProcess(tmp_path, environment=environment).wait_until_ready() as service,
            service.client() as client,
        ):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "call-1"}
            query = {"session_id": "s-1", "items": ["a-1"], "k": 3}
            assert client.post("/v1/recommendations", json=query, headers=headers).status_code == 200
            assert client.get("/v1/sessions/s-1").status_code == 200
            assert client.post("/v1/recommendations", json={"items": 3}).status_code == 422
            assert client.get("/nowhere").status_code == 404
            assert client.get("/metrics").status_code == 200
            wait_until(lambda: len(collector.spans) == 4)
        by_status = {attributes(span)["http.response.status_code"]: span for span in collector.spans}
        recommended, session, invalid, unmatched = collector.spans
        assert collector.resource["service.name"] == "onward"
        assert collector.resource["deployment.environment.name"] == "test"

    assert recommended.name == "POST /v1/recommendations"
    assert recommended.kind == SERVER_KIND
    assert (recommended.trace_id.hex(), recommended.parent_span_id.hex()) == (TRACE, PARENT)
    found = attributes(recommended)
    assert found["http.route"] == "/v1/recommendations"
    assert found["onward.request_id"] == "call-1"
    seconds = (recommended.end_time_unix_nano - recommended.start_time_unix_nano) / 1e9
    assert 0 < found["onward.store_s"] + found["onward.retrieval_s"] < seconds < 10

    assert session.name == "GET /v1/sessions/{session_id}"
    assert session.trace_id.hex() != TRACE
    assert "s-1" not in str(session)
    assert by_status[422] is invalid
    assert unmatched.name == "GET"
    assert all(span.status.code != ERROR for span in collector.spans)


def test_a_refused_request_has_a_span_and_a_fault_of_the_service_is_an_error(tmp_path: Path) -> None:
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with ServiceProcess(tmp_path, environment=environment) as service, service.client() as client:
            assert client.post("/v1/recommendations", json={"items": ["a-1"]}).status_code == 503
            wait_until(lambda: len(collector.spans) == 1)
        assert collector.spans[0].status.code == ERROR


def test_a_collector_that_hangs_holds_up_neither_answers_nor_the_stop(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    with collecting(slow_s=20) as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with ServiceProcess(tmp_path, environment=environment).wait_until_ready() as service:
            with service.client() as client:
                assert all(client.post("/v1/recommendations", json={"items": ["a-1"]}) for _ in range(20))
            assert service.stop() == 0


def test_spans_are_made_only_if_the_environment_asks_for_them() -> None:
    assert not is_asked_for({"OTEL_SERVICE_NAME": "shop"})
    assert is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert not is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"})
    assert not is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER: 'zipkin' is none of otlp, console, none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, value: str, reason: str) -> None:
    with pytest.raises(TracingError, match=reason):
        require_traceable({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", name: value})


def test_the_start_is_refused_in_one_line(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    done = subprocess.run(
        [sys.executable, "-m", "onward.service", "serve", "--bundles", str(tmp_path), "--port", "0"],
        env=os.environ | {"OTEL_TRACES_EXPORTER": "zipkin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: OTEL_TRACES_EXPORTER: 'zipkin' is none of otlp, console, none\n"
