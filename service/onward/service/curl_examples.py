"""Calls to try on a running service, with items that its bundle knows."""

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from urllib.parse import quote as percent_encoded

from onward.bundle import Bundle, Options

SESSION = "visitor-1"


def curl_examples(bundles: Path, url: str) -> Iterator[tuple[str, str]]:
    """What each call does, and the call. Raises BundleError when there is no usable current bundle."""
    bundle = Bundle.load(bundles / "current", verify=False)
    first, second, third = ([item.item_id for item in bundle.popular(Options(3)).items] * 3)[:3]

    def post(path: str, body: dict[str, object]) -> str:
        return f"curl -s {url}{path} -H 'Content-Type: application/json' -d {quote(json.dumps(body))}"

    yield (
        "A visitor looks at two items: store that, and recommend what comes next, in one call",
        post("/v1/recommendations", {"session_id": SESSION, "items": [first, second], "k": 5}),
    )
    yield (
        "The visitor puts a third one into the cart",
        post("/v1/events", {"session_id": SESSION, "item_id": third, "type": "cart", "event_id": "e-1"}),
    )
    yield (
        "Recommend for the session as it is now, without what it has seen",
        f"curl -s '{url}/v1/sessions/{SESSION}/recommendations?k=5&exclude_seen=true'",
    )
    yield (
        "The visitor dislikes the first one: no answer shows it from now on",
        post("/v1/events", {"session_id": SESSION, "item_id": first, "type": "dislike"}),
    )
    if (condition := _condition(bundle, second)) is not None:
        yield (
            "Only items that pass a filter, of different kinds, and not what was bought",
            post(
                "/v1/recommendations",
                {"session_id": SESSION, "k": 5, "filter": condition, "diversity": 0.3, "exclude_seen": "purchased"},
            ),
        )
    yield (
        "Why these? What each event did for each item, with nothing stored",
        post("/v1/recommendations", {"session_id": SESSION, "k": 2, "dry_run": True}),
    )
    yield ("What is stored of the session", f"curl -s {url}/v1/sessions/{SESSION}")
    yield ("Items like one of them", f"curl -s '{url}/v1/items/{percent_encoded(first)}/similar?k=5'")
    yield ("Forget the visitor", f"curl -s -X DELETE {url}/v1/sessions/{SESSION}")


def _condition(bundle: Bundle, item_id: str) -> dict[str, object] | None:
    """A filter that lets an item through, by an attribute in which items differ; None where it has none."""
    attributes = bundle.attributes(item_id)
    of_kind = {bundle.catalog.schema[name]: name for name, value in attributes.items() if value is not None}
    if (number := of_kind.get("number")) is not None:
        return {"attribute": number, "range": {"max": attributes[number]}}
    if (text := of_kind.get("string")) is not None:
        return {"attribute": text, "equals": attributes[text]}
    return None
