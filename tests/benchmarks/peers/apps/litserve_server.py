"""LitServe: one API server process, one worker process.

LitServer(accelerator="cpu", workers_per_device=1, fast_queue=True), num_api_servers=1, log level warning; single items,
for batches wait longer than they save. In the worker one pipeline of redis-py, one run of the bundle's ONNX program
and one search of the bundle's FAISS index for each query.
"""

import os
import sys
from typing import Any

import litserve
from redis import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Answer, Model, append


class Recommender(litserve.LitAPI):
    """One query -> its answer."""

    def setup(self, device: str) -> None:
        self._model = Model.of_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    def predict(self, query: dict[str, Any]) -> Answer:
        pipeline = self._redis.pipeline(transaction=False)
        append(pipeline, "litserve", query["session_id"], query["items"])
        return self._model.answer(pipeline.execute()[3], query["k"])


if __name__ == "__main__":
    api = Recommender(api_path="/recommendations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
