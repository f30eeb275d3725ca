"""FastAPI as public code does it.

Eager torch SR-GNN under no_grad, its session graph built by a Python loop with numpy for each request; pydantic in and
response_model out; four calls of redis-py one after another (RPUSH, LTRIM, EXPIRE, LRANGE); a flat FAISS index over the
item vectors, exact. uvicorn with one worker, uvloop and httptools, access log off. Torch, FAISS and OpenMP have one
thread each, at which they are at their best beside others on two cores.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import faiss
import numpy as np
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

from tests.benchmarks.peers.apps.model import BUNDLE, REDIS_URL, SESSION_LENGTH, SESSION_TTL_S, WEIGHTS
from tests.benchmarks.plain_srgnn import PlainSRGNN, plain_batch


class Query(BaseModel):
    session_id: str
    items: list[str]
    k: int = 20


class Item(BaseModel):
    id: str
    score: float


class Recommendations(BaseModel):
    items: list[Item]


class Recommender:
    """Recommends the nearest items of a session."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        folder = Path(os.environ[BUNDLE])
        self.ids = ["", *(folder / "ids.txt").read_text().splitlines()]
        self.rows = {item_id: row for row, item_id in enumerate(self.ids)}
        dimension = json.loads((folder / "manifest.json").read_text())["dimension"]
        self.encoder = PlainSRGNN(len(self.ids) - 1, dimension).eval()
        self.encoder.load_state_dict(torch.load(os.environ[WEIGHTS], weights_only=True))
        self.index = faiss.IndexFlatIP(dimension)
        self.index.add(np.ascontiguousarray(np.load(folder / "vectors.npy")[1:]))

    def recommend(self, session: list[int], k: int) -> list[Item]:
        with torch.no_grad():
            interests_BD = self.encoder(plain_batch([session], [0])).numpy()
        scores, indices = self.index.search(interests_BD, k)
        return [Item(id=self.ids[i + 1], score=score) for i, score in zip(indices[0], scores[0], strict=True)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.recommender = Recommender()
    app.state.redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/recommendations", response_model=Recommendations)
async def recommend(query: Query) -> Recommendations:
    key, redis, recommender = f"session:{query.session_id}", app.state.redis, app.state.recommender
    await redis.rpush(key, *query.items)
    await redis.ltrim(key, -SESSION_LENGTH, -1)
    await redis.expire(key, SESSION_TTL_S)
    session = await redis.lrange(key, 0, -1)
    rows = [recommender.rows[item_id] for item_id in session if item_id in recommender.rows]
    return Recommendations(items=recommender.recommend(rows, query.k))
