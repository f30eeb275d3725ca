"""BentoML: one service with one worker.

bentoml.service with workers=1, metrics and access log off; an async API with typed parameters, which runs on the event
loop without a thread. A query at a time: adaptive batching takes lists alone, and for single queries its documentation
puts a second service, with a process and an HTTP call of its own, before the one that takes them. One pipeline of
redis-py, one run of the bundle's ONNX program and one search of the bundle's FAISS index for each query.
"""

import os

import bentoml
from redis.asyncio import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Answer, Model, append


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Recommender:
    """Answers one query at a time."""

    def __init__(self) -> None:
        self._model = Model.from_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    @bentoml.api(route="/recommendations")
    async def recommend(self, session_id: str, items: list[str], k: int = 20) -> Answer:
        pipeline = self._redis.pipeline(transaction=False)
        append(pipeline, session_id, items)
        return self._model.answers((await pipeline.execute())[3::4], [{"k": k}])[0]
