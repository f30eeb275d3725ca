"""How many of the items that an exact search finds are in the answers that are served."""

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from onward.service.bench.api import Onward
from onward.service.bench.server import MeasurementError
from onward.service.bench.workload import Sessions

TIMEOUT_S = 30.0


def served_recall(url: str, api: Onward, sessions: Sessions) -> float:
    """Ask for each session as it is served and by an exact search; the share of the exact items in both.

    Nothing is stored of it. Raises MeasurementError.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        found, expected = 0, 0
        for session in sessions:
            exact = set(_asked(connection, api, session, exact=True))
            found += len(exact.intersection(_asked(connection, api, session, exact=False)))
            expected += len(exact)
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"{url} does not answer: {error}") from error
    finally:
        connection.close()
    return round(found / expected, 4) if expected else 1.0


def _asked(connection: http.client.HTTPConnection, api: Onward, session: Sequence[str], *, exact: bool) -> list[str]:
    query: dict[str, Any] = {"items": session, "k": api.k, "exact": exact, "store": False}
    if api.filter is not None:
        query["filter"] = api.filter
    key = {} if api.key is None else {"Authorization": f"Bearer {api.key}"}
    connection.request("POST", "/v1/recommendations", json.dumps(query), {"Content-Type": "application/json", **key})
    response = connection.getresponse()
    answer = json.load(response)
    if response.status != 200:
        raise MeasurementError(f"the service answers {response.status}: {answer.get('detail', answer)}")
    return [item["id"] for item in answer["items"]]
