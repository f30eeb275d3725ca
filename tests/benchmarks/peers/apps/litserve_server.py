"""LitServe: one API server process, one worker process.

LitServer(accelerator="cpu", workers_per_device=1, fast_queue=True), num_api_servers=1, log level warning. A batch of
one: a query at a time. A larger one: that max_batch_size and batch_timeout=1 ms; with 0, its default, it takes three
times as much processor time. A batch is one pipeline of redis-py, one run of the bundle's ONNX program, padded, and one
search of the bundle's FAISS index.
"""

import os
import sys
from typing import Any

import litserve
from redis import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Answer, Model, append, batch_size

WAIT_S = 0.001


class Batches(litserve.LitAPI):
    """Answers a batch of queries at a time."""

    def setup(self, device: str) -> None:
        self._model = Model.from_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    def predict(self, request: Any) -> Any:
        return self.answers(request)

    def answers(self, queries: list[dict[str, Any]]) -> list[Answer]:
        pipeline = self._redis.pipeline(transaction=False)
        for query in queries:
            append(pipeline, query["session_id"], query["items"])
        return self._model.answers(pipeline.execute()[3::4], queries)


class Singles(Batches):
    """Answers one query at a time."""

    def predict(self, request: Any) -> Any:
        return self.answers([request])[0]


if __name__ == "__main__":
    size = batch_size()
    api = (Batches if size > 1 else Singles)(max_batch_size=size, batch_timeout=WAIT_S, api_path="/recommendations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
