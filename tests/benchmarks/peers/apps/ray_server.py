"""Ray Serve: one replica behind its HAProxy, in its high-throughput mode.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 and RAY_SERVE_ENABLE_HA_PROXY=1, HAProxy with one thread, access log off, usage
statistics and dashboard off; a deployment with num_replicas=1 and max_ongoing_requests=64, the plain Starlette request
in and orjson bytes out. A batch of one: a query at a time. A larger one: serve.batch with that max_batch_size and
batch_wait_timeout_s=0, which takes what has come. A batch is one pipeline of redis-py, one run of the bundle's ONNX
program, padded, and one search of the bundle's FAISS index.
"""

import os
import signal
import sys
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response

from tests.benchmarks.peers.apps.model import HOME, REDIS_URL, Answer, Model, append, batch_size


class Recommender:
    """Answers queries, one at a time or in batches."""

    def __init__(self) -> None:
        self._model = Model.from_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)
        self._answer = self._in_batch if batch_size() > 1 else self._alone

    async def __call__(self, request: Request) -> Response:
        answer = await self._answer(orjson.loads(await request.body()))
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _alone(self, query: dict[str, Any]) -> Answer:
        return (await self._answers([query]))[0]

    @serve.batch(max_batch_size=batch_size(), batch_wait_timeout_s=0)
    async def _in_batch(self, queries: list[dict[str, Any]]) -> list[Answer]:
        return await self._answers(queries)

    async def _answers(self, queries: list[dict[str, Any]]) -> list[Answer]:
        pipeline = self._redis.pipeline(transaction=False)
        for query in queries:
            append(pipeline, query["session_id"], query["items"])
        return self._model.answers((await pipeline.execute())[3::4], queries)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    deployment = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 1},
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=os.environ[HOME])
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
        serve.run(deployment(Recommender).bind(), route_prefix="/recommendations")
        signal.pause()
    finally:
        ray.shutdown()
