"""mosec: its Rust server before one Python worker process.

One stage with num=1, dynamic batching with max_batch_size=16 and max_wait_time=1 ms (the least it takes), JSON in and
out by orjson. A batch is one pipeline of redis-py, one run of the bundle's ONNX program, padded, and one search of the
bundle's FAISS index.
"""

import os
from typing import Any

import orjson
from mosec import Server, Worker
from redis import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Model, append

BATCH, WAIT_MS = 16, 1


class Recommender(Worker):
    """A batch of queries -> their answers."""

    def __init__(self) -> None:
        super().__init__()
        self._model = Model.of_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: list[dict[str, Any]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for query in data:
            append(pipeline, "mosec", query["session_id"], query["items"])
        answers = self._model.answers(pipeline.execute()[3::4], max(query["k"] for query in data))
        return [{"items": answer["items"][: query["k"]]} for answer, query in zip(answers, data, strict=True)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Recommender, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS, route="/recommendations")
    server.run()
