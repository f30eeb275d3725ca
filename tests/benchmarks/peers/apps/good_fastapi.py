"""FastAPI as an engineer who measures would write it.

The bundle's ONNX program, one thread; the bundle's FAISS index at its own nprobe, memory-mapped; one pipeline of
redis-py with hiredis for each request; pydantic in, orjson bytes out without a response model. uvicorn with one worker,
uvloop and httptools, access log off.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel
from redis.asyncio import Redis

from tests.benchmarks.peers.apps.model import REDIS_URL, Model, append


class Query(BaseModel):
    session_id: str
    items: list[str]
    k: int = 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = Model.from_environment()
    app.state.redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/recommendations")
async def recommend(query: Query) -> Response:
    pipeline = app.state.redis.pipeline(transaction=False)
    append(pipeline, query.session_id, query.items)
    *_, session = await pipeline.execute()
    answer = app.state.model.answers([session], [{"k": query.k}])[0]
    return Response(orjson.dumps(answer), media_type="application/json")
