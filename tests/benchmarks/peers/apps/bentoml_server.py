"""BentoML: one service with one worker.

@bentoml.service(workers=1, metrics and tracing off, access log off), an async API with typed parameters, so that the
event loop runs it without a thread; no adaptive batching. One pipeline of redis-py, one run of the bundle's ONNX
program and one search of the bundle's FAISS index for each query.
"""

import os

import bentoml
from redis.asyncio import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Answer, Model, append


@bentoml.service(
    workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}}, http={"host": "127.0.0.1"}
)
class Recommender:
    """One query -> its answer."""

    def __init__(self) -> None:
        self._model = Model.of_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    @bentoml.api(route="/recommendations")
    async def recommend(self, session_id: str, items: list[str], k: int = 20) -> Answer:
        pipeline = self._redis.pipeline(transaction=False)
        append(pipeline, "bentoml", session_id, items)
        *_, session = await pipeline.execute()
        return self._model.answer(session, k)
