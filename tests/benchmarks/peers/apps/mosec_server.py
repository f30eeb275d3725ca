"""mosec: its Rust server before one Python worker process.

One stage with num=1, JSON in and out by orjson. A batch of one: a query at a time. A larger one: dynamic batching with
that max_batch_size and max_wait_time=1 ms, the least it takes. A batch is one pipeline of redis-py, one run of the
bundle's ONNX program, padded, and one search of the bundle's FAISS index.
"""

import os
from typing import Any

import orjson
from mosec import Server, Worker
from redis import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Answer, Model, append, batch_size

WAIT_MS = 1


class Batches(Worker):
    """Answers a batch of queries at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._model = Model.from_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: Any) -> Any:
        return self.answers(data)

    def answers(self, queries: list[dict[str, Any]]) -> list[Answer]:
        pipeline = self._redis.pipeline(transaction=False)
        for query in queries:
            append(pipeline, query["session_id"], query["items"])
        return self._model.answers(pipeline.execute()[3::4], queries)


class Singles(Batches):
    """Answers one query at a time."""

    def forward(self, data: Any) -> Any:
        return self.answers([data])[0]


if __name__ == "__main__":
    server, size = Server(), batch_size()
    worker = Batches if size > 1 else Singles
    server.append_worker(worker, num=1, max_batch_size=size, max_wait_time=WAIT_MS, route="/recommendations")
    server.run()
