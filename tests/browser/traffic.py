"""Visitors of the demo shop: recommendations of three scenarios, clicks, carts and purchases."""

import random
from typing import Any

import httpx

SCENARIOS: dict[str, dict[str, Any]] = {
    "home": {"k": 12, "diversity": 0.3},
    "product-page": {"k": 8, "exclude_seen": True},
    "cart": {"k": 4, "filter": {"attribute": "price", "range": {"max": 30}}},
}
CLICK_SHARE = {"home": 0.08, "product-page": 0.2, "cart": 0.12}
BUY_SHARE = {"home": 0.04, "product-page": 0.15, "cart": 0.35}
PAGES = 5


def send_traffic(client: httpx.Client, *, visitors: int, seed: int = 1) -> int:
    """Let visitors come one after the other, each of whom looks at up to five pages; return how many pages."""
    for name, options in SCENARIOS.items():
        client.put(f"/v1/scenarios/{name}", json=options).raise_for_status()
    chance = random.Random(seed)
    popular = [item["id"] for item in client.get("/v1/items:popular", params={"k": 100}).json()["items"]]
    pages = 0
    for visitor in range(visitors):
        item = popular[min(int(chance.expovariate(0.08)), len(popular) - 1)]
        for _ in range(chance.randint(1, PAGES)):
            pages += 1
            scenario = chance.choices(list(SCENARIOS), weights=[5, 4, 1])[0]
            item = _visit(client, f"visitor-{visitor + 1}", item, scenario, chance)
    return pages


def _visit(client: httpx.Client, session_id: str, item: str, scenario: str, chance: random.Random) -> str:
    """Look at an item and at what is recommended beside it; return the item to look at next."""
    query = {"session_id": session_id, "items": [item], "scenario": scenario, "variant": chance.choice("ab")}
    answer = client.post("/v1/recommendations", json=query).raise_for_status().json()
    clicked = chance.choice(answer["items"])
    if chance.random() > CLICK_SHARE[scenario] * 3:
        return str(clicked["id"])
    types = ["view"]
    if chance.random() < BUY_SHARE[scenario]:
        types += ["cart", "purchase"]
    elif chance.random() < BUY_SHARE[scenario]:
        types.append("cart")
    for kind in types:
        event = {"session_id": session_id, "item_id": clicked["id"], "type": kind}
        value = {"value": clicked["attributes"].get("price") or 0.0} if kind == "purchase" else {}
        client.post(
            "/v1/events", json=event | value | {"recommendation_id": answer["recommendation_id"]}
        ).raise_for_status()
    return str(clicked["id"])
