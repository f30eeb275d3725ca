"""Check the answers of servers against exact search.

Dimension key: N items, K interests, D embedding.
"""

import json
import socket
from collections.abc import Sequence
from http.client import HTTPResponse
from urllib.parse import urlsplit

import numpy as np

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Api

TIMEOUT_S = 30.0
K = 20


def request_items(url: str, request: bytes) -> list[str]:
    """Send one request and return the item ids of the answer. Raises OSError or ValueError."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {body[:200].decode(errors='replace')}")
    return [item["id"] for item in json.loads(body)["items"]]


def last_answers(url: str, api: Api, sessions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Send all clicks of each session and return its last answer. Raises OSError or ValueError."""
    lists = []
    for number, session in enumerate(sessions):
        for item_id in session:
            last = request_items(url, api.request(f"check-{number}", item_id))
        lists.append(last)
    return lists


def exact_answers(bundle: Bundle, sessions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the nearest items of each session by comparison with every item."""
    lists = []
    for session in sessions:
        rows = [row for item_id in session if (row := bundle.catalog.row(item_id)) is not None]
        scores_N1 = (bundle.vectors_N1D @ bundle.encoder.encode(rows).T).max(axis=1)
        best = 1 + np.argsort(-scores_N1[1:], kind="stable")[:K]
        lists.append([bundle.catalog.item_id(row) for row in best.tolist()])
    return lists


def recall(answers: Sequence[Sequence[str]], best: Sequence[Sequence[str]]) -> float:
    """Return the share of the best items that the answers contain."""
    hits = sum(len(set(answer) & set(expected)) for answer, expected in zip(answers, best, strict=True))
    return hits / sum(map(len, best))
