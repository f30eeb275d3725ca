"""Example curl commands for a running service, with items of its bundle."""

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from urllib.parse import quote as percent_encoded

from onward.bundle import Bundle, Options, PublishedBundles

SESSION = "visitor-1"


def curl_examples(bundles: Path, url: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of description and curl command. Raises BundleError if `bundles` has no usable current bundle."""
    bundle = Bundle.load(PublishedBundles(bundles).current_folder(), verify=False)
    first, second, third = ([item.item_id for item in bundle.popular(Options(3)).items] * 3)[:3]

    def post(path: str, body: dict[str, object]) -> str:
        return f"curl -s {url}{path} -H 'Content-Type: application/json' -d {quote(json.dumps(body))}"

    yield (
        "A visitor views two items: store both events and get recommendations, in one call",
        post("/v1/recommendations", {"session_id": SESSION, "items": [first, second], "k": 5}),
    )
    yield (
        "The visitor puts a third item into the cart",
        post("/v1/events", {"session_id": SESSION, "item_id": third, "type": "cart", "event_id": "e-1"}),
    )
    yield (
        "Recommendations for the stored session, without items that it has seen",
        f"curl -s '{url}/v1/sessions/{SESSION}/recommendations?k=5&exclude_seen=true'",
    )
    yield (
        "The visitor dislikes the first item: from now on no answer contains it",
        post("/v1/events", {"session_id": SESSION, "item_id": first, "type": "dislike"}),
    )
    if (condition := _condition(bundle, second)) is not None:
        yield (
            "Only items that match a filter, diversified, without purchased items",
            post(
                "/v1/recommendations",
                {"session_id": SESSION, "k": 5, "filter": condition, "diversity": 0.3, "exclude_seen": "purchased"},
            ),
        )
    yield (
        "Why these items? The effect of each event on each score; nothing is stored",
        post("/v1/recommendations", {"session_id": SESSION, "k": 2, "dry_run": True}),
    )
    yield ("The stored session", f"curl -s {url}/v1/sessions/{SESSION}")
    yield ("Items similar to the first one", f"curl -s '{url}/v1/items/{percent_encoded(first)}/similar?k=5'")
    yield ("Delete the session", f"curl -s -X DELETE {url}/v1/sessions/{SESSION}")


def _condition(bundle: Bundle, item_id: str) -> dict[str, object] | None:
    """Return a filter that the item matches, by one of its attributes; None if the item has no attributes."""
    attributes = bundle.attributes(item_id)
    attribute_of_kind = {bundle.catalog.schema[name]: name for name, value in attributes.items() if value is not None}
    if (number := attribute_of_kind.get("number")) is not None:
        return {"attribute": number, "range": {"max": attributes[number]}}
    if (text := attribute_of_kind.get("string")) is not None:
        return {"attribute": text, "equals": attributes[text]}
    return None
