"""Recall of the served answers against exact search."""

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.workload import Sessions
from onward.service.bench.server import MeasurementError

TIMEOUT_S = 30.0


def served_recall(url: str, api: Onward, sessions: Sessions) -> float:
    """Return the share of exact search's items that the served answers contain, over all sessions.

    Each session is sent twice, with and without `exact`, and is not stored. Raises MeasurementError if the service does
    not answer.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        hits, expected = 0, 0
        for session in sessions:
            exact = set(_recommended(connection, api, session, exact=True))
            hits += len(exact.intersection(_recommended(connection, api, session, exact=False)))
            expected += len(exact)
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"{url} does not answer: {error}") from error
    finally:
        connection.close()
    return round(hits / expected, 4) if expected else 1.0


def _recommended(
    connection: http.client.HTTPConnection, api: Onward, session: Sequence[str], *, exact: bool
) -> list[str]:
    query: dict[str, Any] = {"items": session, "k": api.k, "exact": exact, "store": False}
    if api.filter is not None:
        query["filter"] = api.filter
    key = {} if api.key is None else {"Authorization": f"Bearer {api.key}"}
    connection.request("POST", "/v1/recommendations", json.dumps(query), {"Content-Type": "application/json", **key})
    response = connection.getresponse()
    content = response.read()
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise MeasurementError(f"the service answers {response.status} without JSON") from error
    if response.status != 200:
        raise MeasurementError(f"the service answers {response.status}: {answer.get('detail', answer)}")
    return [item["id"] for item in answer["items"]]
