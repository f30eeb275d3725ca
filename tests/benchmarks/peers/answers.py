"""What servers answer, held against an exact search: whether all of them do the same job.

Dimension key: N items, K interests, D embedding.
"""

import json
import socket
from collections.abc import Sequence
from http.client import HTTPResponse
from urllib.parse import urlsplit

import numpy as np

from onward.bundle import Bundle
from onward.service.bench.api import Api

TIMEOUT_S = 30.0
AT = 20


def ask(url: str, request: bytes) -> list[str]:
    """Send one request and return the ids of the answer's items. Raises OSError or ValueError."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {body[:200].decode(errors='replace')}")
    return [item["id"] for item in json.loads(body)["items"]]


def answered(url: str, api: Api, sessions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Click through each session and return the last answer to each. Raises OSError or ValueError."""
    lists = []
    for number, session in enumerate(sessions):
        for item_id in session:
            last = ask(url, api.request(f"check-{number}", item_id))
        lists.append(last)
    return lists


def exact(bundle: Bundle, sessions: Sequence[Sequence[str]]) -> list[list[str]]:
    """The best items of each session, every item compared."""
    lists = []
    for session in sessions:
        rows = [row for item_id in session if (row := bundle.catalog.row(item_id)) is not None]
        scores_N1 = (bundle.vectors_N1D @ bundle.encoder.encode(rows).T).max(axis=1)
        best = 1 + np.argsort(-scores_N1[1:], kind="stable")[:AT]
        lists.append([bundle.catalog.item_id(row) for row in best.tolist()])
    return lists


def recall(found: Sequence[Sequence[str]], best: Sequence[Sequence[str]]) -> float:
    """Share of the best items that were found."""
    hits = sum(len(set(one) & set(other)) for one, other in zip(found, best, strict=True))
    return hits / sum(map(len, best))
