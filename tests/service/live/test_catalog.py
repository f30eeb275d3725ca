"""Changes of items take effect at once in the worker that receives them, and soon in every other."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from onward.bundle import Bundle
from onward.bundle.catalog.live_item import LiveItem
from onward.bundle.releases import remove
from onward.bundle.search.retrieval import Options, SessionView
from onward.service.cli import cli
from onward.service.errors import LiveStoreUnavailable
from onward.service.live.bundle import LiveBundle
from onward.service.live.catalog import MAX_ATTRIBUTES, ItemPatch, LiveCatalog
from onward.service.live.replica import Edited, Replica
from onward.service.live.versioned_store import InMemoryVersionedStore, RedisVersionedStore, VersionedStore
from onward.service.sessions import AppliedEvent
from tests.bundles import item_ids, publish_bundle
from tests.service.process import wait_until
from tests.service.workers import memory, worker_app

IDS = item_ids("item-", 30)
ATTRIBUTES: list[dict[str, Any]] = [
    {"brand": "acme" if number % 3 else "apex", "price": float(number), "tags": ["a"]} for number in range(30)
]
UNUSABLE_VALUES: list[Any] = [{}, "x" * 1001, ["x"] * 101, [1], [["x"]], 2**63, "\ud800", ["\udfff"]]

numbers = itertools.count()


@pytest.fixture(scope="session")
def catalog_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, IDS, attributes=ATTRIBUTES)
    return folder


@pytest.fixture
def client(catalog_bundles: Path) -> Iterator[TestClient]:
    with TestClient(worker_app(catalog_bundles, memory, memory)) as client:
        yield client


@pytest.fixture
async def live(catalog_bundles: Path) -> LiveBundle:
    live = LiveBundle(catalog_bundles, LiveCatalog(Replica(memory(), "items")))
    await live.refresh()
    return live


def catalog_of(live: LiveBundle) -> LiveCatalog:
    assert live._catalog is not None
    return live._catalog


async def patch(live: LiveBundle, item_id: str, **change: Any) -> None:
    assert isinstance((await catalog_of(live).patch({item_id: [ItemPatch(**change)]}))[item_id], Edited)
    await live.take_changes()


def shown(bundle: Bundle, session: list[str], k: int = 30) -> list[str]:
    return [item.item_id for item in bundle.retrieve(SessionView(session), Options(k=k)).items]


async def test_an_unavailable_item_is_not_shown_until_it_is_available_again(live: LiveBundle) -> None:
    await patch(live, "item-2", available=False)
    assert "item-2" not in shown(live.bundle, ["item-1"])
    await patch(live, "item-2", available=True)
    assert "item-2" in shown(live.bundle, ["item-1"])


async def test_a_deleted_item_is_not_shown_until_it_is_restored(live: LiveBundle) -> None:
    await catalog_of(live).delete("item-2", live.bundle)
    await live.take_changes()
    assert "item-2" not in shown(live.bundle, ["item-1"])
    assert live.bundle.retrieve(SessionView(["item-2"]), Options(k=3)).unknown_item_ids == ()
    await patch(live, "item-2")
    assert "item-2" in shown(live.bundle, ["item-1"])


async def test_patches_accumulate_and_do_not_change_a_bundle_in_use(live: LiveBundle) -> None:
    before = live.bundle
    await patch(live, "item-2", attributes={"price": 3.5, "colour": "red"})
    await patch(live, "item-2", attributes={"brand": None})
    assert live.bundle.attributes("item-2") == {"price": 3.5, "tags": ["a"], "colour": "red"}
    assert before.attributes("item-2") == ATTRIBUTES[1]
    assert live.bundle.digest == before.digest


async def test_a_new_item_is_recommended_with_its_similar_items(live: LiveBundle) -> None:
    await patch(live, "new", similar_to=["item-5"])
    assert shown(live.bundle, ["item-5"], k=2) in (["item-5", "new"], ["new", "item-5"])
    await patch(live, "unrelated")
    assert "unrelated" not in shown(live.bundle, ["item-5"], k=50)


def event(item_id: str, session: list[str], weight: float = 1.0) -> AppliedEvent:
    return AppliedEvent("s", item_id, "view", weight, 0, None, None, None, session)


async def test_a_new_item_is_recommended_after_enough_co_occurrences(live: LiveBundle) -> None:
    await patch(live, "new")
    catalog = catalog_of(live)
    catalog.applied([event("new", ["item-9", "item-7", "new"], 2.0), event("item-7", ["new", "item-7"], 1.0)])
    catalog.applied([event("new", ["item-8", "new"], 0.0), event("item-3", ["item-2", "item-3"])])
    await live.follow_catalog()
    assert catalog.cold_vector("new") is not None
    assert "new" in shown(live.bundle, ["item-7"])
    vector = catalog.cold_vector("new")
    assert vector is not None
    assert (vector.source, vector.neighbours) == ("seen_with", ("item-7", "item-9"))


async def test_co_occurrences_of_a_failed_flush_are_added_to_later_ones(live: LiveBundle) -> None:
    await patch(live, "new")
    catalog, replica = catalog_of(live), catalog_of(live)._replica
    update = replica.update

    async def fail_while_events_arrive(_: Any) -> Any:
        catalog.applied([event("new", ["item-7", "new"], 1.0)])
        raise LiveStoreUnavailable

    catalog.applied([event("new", ["item-7", "new"], 5.0)])
    replica.update = fail_while_events_arrive  # type: ignore[method-assign, assignment]
    await catalog.flush()
    replica.update = update  # type: ignore[method-assign]
    await catalog.flush()
    assert LiveItem.of(replica.entries["new"].value).seen_with == {"item-7": 6.0}


async def test_similar_items_take_precedence_over_co_occurrences(live: LiveBundle) -> None:
    await patch(live, "new", similar_to=["item-5"])
    catalog_of(live).applied([event("new", ["item-9", "new"], 50.0)])
    await live.follow_catalog()
    vector = catalog_of(live).cold_vector("new")
    assert vector is not None
    assert vector.neighbours == ("item-5",)


async def test_a_new_bundle_goes_live_with_all_changes(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES)
    live = LiveBundle(tmp_path, LiveCatalog(Replica(memory(), "items")))
    await live.refresh()
    await patch(live, "item-2", available=False)
    await patch(live, "new", similar_to=["item-5"])
    digest = publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES, seed=1)
    await live.refresh()
    assert live.bundle.digest == digest
    answer = shown(live.bundle, ["item-1"])
    assert "new" in answer
    assert "item-2" not in answer


async def test_a_worker_that_starts_does_not_show_deleted_items(catalog_bundles: Path) -> None:
    store = memory()
    first, second = (LiveBundle(catalog_bundles, LiveCatalog(Replica(store, "items"))) for _ in range(2))
    await first.refresh()
    await catalog_of(first).delete("item-2", first.bundle)
    await second.refresh()
    assert "item-2" not in shown(second.bundle, ["item-1"])


async def test_concurrent_changes_are_all_applied(live: LiveBundle) -> None:
    await asyncio.gather(*(patch(live, f"item-{number}", available=False) for number in range(1, 21)))
    assert set(shown(live.bundle, ["item-1"])) == set(IDS[20:])


async def test_the_last_known_catalog_serves_while_the_store_is_unavailable(live: LiveBundle) -> None:
    class UnavailableStore(InMemoryVersionedStore):
        async def changes_since(self, generation: str | None, sequence: int) -> Any:
            raise LiveStoreUnavailable

    await patch(live, "item-2", available=False)
    catalog_of(live)._replica._store = UnavailableStore(max_names=1)
    await live.follow_catalog()
    assert "item-2" not in shown(live.bundle, ["item-1"])
    with pytest.raises(LiveStoreUnavailable):
        await patch(live, "item-3", available=False)


def test_other_workers_follow_within_a_second_and_a_later_worker_at_its_start(
    catalog_bundles: Path, valkey: str
) -> None:
    def redis(name: str) -> Callable[[], VersionedStore]:
        return lambda: RedisVersionedStore.connect(valkey, name, max_names=100)

    def worker() -> TestClient:
        return TestClient(worker_app(catalog_bundles, redis("worker-items"), redis("worker-scenarios")))

    with ExitStack() as workers:
        first, second = (workers.enter_context(worker()) for _ in range(2))
        assert first.patch("/v1/items/item-2", json={"available": False}).json()["recommendable"] is False
        assert first.patch("/v1/items/new", json={"similar_to": ["item-5"]}).json()["recommendable"] is True
        assert first.delete("/v1/items/item-3").status_code == 204
        wait_until(lambda: second.get("/v1/items/item-3").status_code == 404, 1)
        assert second.get("/v1/items/item-2").json()["not_recommendable"] == "unavailable"
        assert second.get("/v1/items/new").json()["vector"] == {"source": "similar_to", "neighbours": ["item-5"]}
    with worker() as later:
        assert later.get("/v1/items/item-3").status_code == 404
        assert later.get("/v1/items/new").json()["recommendable"] is True


def test_an_item_is_returned_with_its_changes(client: TestClient) -> None:
    item = client.get("/v1/items/item-2").json()
    assert item | {"bundle": ""} == {
        "id": "item-2",
        "bundle": "",
        "attributes": ATTRIBUTES[1],
        "available": True,
        "recommendable": True,
        "popularity": 29.0,
        "vector": {"source": "training"},
    }
    changed = client.patch("/v1/items/item-2", json={"attributes": {"price": 7, "tags": None}, "available": False})
    assert changed.status_code == 200
    assert changed.json()["attributes"] == {"brand": "acme", "price": 7, "available": False}
    assert changed.json()["not_recommendable"] == "unavailable"
    assert client.get("/v1/items/item-2").json() == changed.json()


def test_a_new_item_says_why_it_is_not_recommendable_or_how_its_vector_was_made(client: TestClient) -> None:
    new = client.patch("/v1/items/a%2Fnew~item", json={"attributes": {"shape": "round"}}).json()
    assert (new["available"], new["recommendable"], new["not_recommendable"]) == (True, False, "no_vector")
    assert "vector" not in new
    patched = client.patch("/v1/items/a%2Fnew~item", json={"attributes": {"brand": "apex", "price": 9}}).json()
    assert patched["recommendable"] is True
    assert patched["vector"]["source"] == "attributes"
    assert patched["vector"]["neighbours"][0] == "item-10"
    assert patched["popularity"] == 0


def test_unknown_and_deleted_items_are_not_found(client: TestClient) -> None:
    assert client.get("/v1/items/nobody").json()["code"] == "item_not_found"
    assert client.delete("/v1/items/nobody").json()["code"] == "item_not_found"
    client.patch("/v1/items/new", json={})
    for item_id in ("item-2", "new"):
        assert [client.delete(f"/v1/items/{item_id}").status_code for _ in range(2)] == [204, 204]
        assert client.get(f"/v1/items/{item_id}").status_code == 404
    assert client.patch("/v1/items/item-2", json={}).json()["attributes"] == ATTRIBUTES[1] | {"available": True}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"price": "cheap"}, "price is of the kind number in this catalog"),
        ({"price": True}, "price is of the kind number in this catalog"),
        ({"brand": 3}, "brand is of the kind string in this catalog"),
        ({"tags": "a"}, "tags is of the kind strings in this catalog"),
        ({"available": False}, "give available beside the attributes, not among them"),
        ({"a b": 1}, "an attribute's name is a letter or _ and up to 63 letters, digits and _ behind it"),
        ({"a" * 65: 1}, "an attribute's name is a letter or _ and up to 63 letters, digits and _ behind it"),
        ({"\ud800": 1}, "an attribute's name is a letter or _ and up to 63 letters, digits and _ behind it"),
        ({f"a{number}": 1 for number in range(MAX_ATTRIBUTES + 1)}, "at most 64 attributes"),
        *(
            ({"x": value}, "x: a value is null, a boolean, a finite number, a string of at most 1000 characters")
            for value in UNUSABLE_VALUES
        ),
        ([], "attributes are an object"),
    ],
)
def test_invalid_attributes_are_refused_with_what_is_expected(
    client: TestClient, attributes: Any, message: str
) -> None:
    body = json.dumps({"attributes": attributes}).encode()
    answer = client.patch("/v1/items/item-2", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert message in fault["message"]
    assert client.get("/v1/items/item-2").json()["attributes"] == ATTRIBUTES[1]


def test_values_at_their_limits_are_accepted(client: TestClient) -> None:
    attributes = {
        "text": "ü" * 1000,
        "list": ["x" * 1000, *("y" for _ in range(99))],
        "number": -(2**63) + 1,
        "small": 1e-300,
        "flag": False,
        "a" * 64: "",
        "none": [],
    }
    patched = client.patch("/v1/items/new", json={"attributes": attributes}).json()
    assert patched["attributes"] == attributes


def test_changed_attributes_of_one_item_are_limited_over_all_patches(client: TestClient) -> None:
    for part in "ab":
        answer = client.patch("/v1/items/new", json={"attributes": {f"{part}{number}": 1 for number in range(33)}})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_each_entry_of_a_batch_succeeds_or_fails_by_itself(client: TestClient) -> None:
    answer = client.post(
        "/v1/items:batch",
        json={
            "items": [
                {"id": "item-2", "available": False},
                {"id": "b\tad", "available": True},
                {"id": "item-3", "attributes": {"price": "cheap"}},
                {"id": "new", "similar_to": ["item-5"], "colour": "red"},
                7,
                {"id": "item-2", "attributes": {"price": 1}},
            ]
        },
    )
    assert answer.status_code == 207
    body = answer.json()
    assert (body["stored"], body["rejected"]) == (2, 4)
    assert [result["status"] for result in body["results"]] == ["stored", *["rejected"] * 4, "stored"]
    errors = [result["error"]["errors"][0] for result in body["results"][1:5]]
    misfit = "price is of the kind number in this catalog"
    assert errors[1] == {"at": "body.items.2.attributes.price", "message": misfit}
    assert errors[2]["message"] == 'Unknown field "colour"; see /docs for the known ones'
    assert body["results"][1].keys() == {"status", "error"}
    item = client.get("/v1/items/item-2").json()
    assert (item["available"], item["attributes"]["price"]) == (False, 1)
    assert client.get("/v1/items/new").status_code == 404


def test_a_batch_has_one_to_a_thousand_entries(client: TestClient) -> None:
    entries = [{"id": IDS[number % 30], "available": True} for number in range(1001)]
    assert client.post("/v1/items:batch", json={"items": entries[:1000]}).status_code == 200
    for items in ([], entries):
        assert client.post("/v1/items:batch", json={"items": items}).status_code == 422


def test_items_beyond_the_limit_are_refused(client: TestClient) -> None:
    answer = client.post("/v1/items:batch", json={"items": [{"id": f"new-{number}"} for number in range(101)]}).json()
    assert answer["stored"] == 100
    assert answer["results"][-1]["error"]["code"] == "limit_reached"
    assert client.patch("/v1/items/one-more", json={}).json()["code"] == "limit_reached"


@pytest.fixture(params=["memory", "redis"])
def small_store(request: pytest.FixtureRequest, valkey: str) -> Callable[[], VersionedStore]:
    """A store of at most three names, which all workers of a test share."""
    if request.param == "memory":
        store = InMemoryVersionedStore(max_names=3)
        return lambda: store
    name = f"small-{next(numbers)}"
    return lambda: RedisVersionedStore.connect(valkey, name, max_names=3)


def test_changes_that_a_rebuilt_bundle_includes_do_not_count_towards_the_limit_and_stay_stored(
    tmp_path: Path, small_store: Callable[[], VersionedStore]
) -> None:
    publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES)
    new = ["new-1", "new-2", "new-3"]
    with TestClient(worker_app(tmp_path, small_store, memory)) as client:
        for item_id in new:
            assert client.patch(f"/v1/items/{item_id}", json={"similar_to": ["item-5"]}).status_code == 200
        assert client.patch("/v1/items/item-2", json={"available": False}).status_code == 409
    folded_changes = int(time.time() * 1e6)
    publish_bundle(tmp_path, IDS + new, attributes=[*ATTRIBUTES, {}, {}, {}], folded_changes=folded_changes)
    with TestClient(worker_app(tmp_path, small_store, memory)) as client:
        for item_id in ("item-2", "item-3", "item-4"):
            changed = client.patch(f"/v1/items/{item_id}", json={"available": False})
            assert (changed.status_code, changed.json()["available"]) == (200, False)
        assert client.get("/v1/items/new-1").json()["vector"] == {"source": "training"}
        batch = client.post("/v1/items:batch", json={"items": [{"id": "new-4"}, {"id": "item-2"}, {"id": "new-1"}]})
        assert [result["status"] for result in batch.json()["results"]] == ["rejected", "stored", "stored"]
    publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES)  # an operator goes back to a bundle without the changes
    with TestClient(worker_app(tmp_path, small_store, memory)) as client:
        assert [client.get(f"/v1/items/{item_id}").status_code for item_id in new] == [200] * 3
        assert client.get("/v1/items/item-2").json()["available"] is False
        assert client.patch("/v1/items/item-5", json={}).status_code == 409


def test_a_deleted_item_of_a_rebuilt_bundle_stays_deleted_and_can_be_restored(
    tmp_path: Path, small_store: Callable[[], VersionedStore]
) -> None:
    publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES)
    with TestClient(worker_app(tmp_path, small_store, memory)) as client:
        assert client.delete("/v1/items/item-1").status_code == 204
        for item_id in ("item-2", "item-3"):
            client.patch(f"/v1/items/{item_id}", json={"attributes": {"price": 7}})
    available = np.ones(len(IDS) + 1, dtype=np.bool_)
    available[1] = False
    attributes = [ATTRIBUTES[0], *(item | {"price": 7.0} for item in ATTRIBUTES[1:3]), *ATTRIBUTES[3:]]
    folded_changes = int(time.time() * 1e6)
    publish_bundle(tmp_path, IDS, attributes=attributes, available=available, folded_changes=folded_changes)
    with TestClient(worker_app(tmp_path, small_store, memory)) as client:
        assert client.patch("/v1/items/item-4", json={}).status_code == 200
        assert client.get("/v1/items/item-1").status_code == 404
        assert client.get("/v1/items/item-2").json()["attributes"]["price"] == 7
        restored = client.patch("/v1/items/item-1", json={})
        assert (restored.status_code, restored.json()["available"]) == (200, True)


async def test_changes_that_every_bundle_includes_are_dropped(tmp_path: Path, valkey: str) -> None:
    store = RedisVersionedStore.connect(valkey, "items", max_names=100)
    await store.clear()
    live = LiveCatalog(Replica(store, "items"))
    await live.patch({"item-2": [ItemPatch({"price": 7})], "item-3": [ItemPatch(available=False)]})
    first = publish_bundle(tmp_path, IDS, attributes=ATTRIBUTES)
    await live.delete("item-4", Bundle.load(tmp_path / "current"))
    folded_changes = max(entry.sequence for entry in live.entries.values())
    attributes = [ATTRIBUTES[0], ATTRIBUTES[1] | {"price": 7.0}, *ATTRIBUTES[2:]]
    available = np.ones(len(IDS) + 1, dtype=np.bool_)
    available[[3, 4]] = False
    publish_bundle(tmp_path, IDS, attributes=attributes, available=available, folded_changes=folded_changes)
    await live.patch({"item-5": [ItemPatch({"price": 8})]})
    drop = ["drop-changes", str(tmp_path), "--redis-url", valkey]
    refused = await asyncio.to_thread(CliRunner().invoke, cli, drop)
    assert (
        refused.output == f"dropped 0 changes: bundle {first[:12]} includes none; rebuild it, or remove it if unused\n"
    )
    bundle = LiveBundle(tmp_path, live)
    await bundle.refresh()
    before = [bundle.bundle.attributes(item_id) for item_id in IDS], shown(bundle.bundle, ["item-1"])
    remove(tmp_path, first, recent=timedelta(0))
    done = await asyncio.to_thread(CliRunner().invoke, cli, drop)
    assert done.output.startswith("dropped 2 changes, 2 stay; bundle ")
    await bundle.follow_catalog()
    assert sorted(live.entries) == ["item-4", "item-5"]
    assert ([bundle.bundle.attributes(item_id) for item_id in IDS], shown(bundle.bundle, ["item-1"])) == before
    assert live.is_deleted("item-4")
    await live.patch({"item-2": [ItemPatch({"brand": "new"})]})
    await bundle.take_changes()
    assert bundle.bundle.attributes("item-2") == attributes[1] | {"brand": "new"}
    await store.clear()
    await live.close()


def test_an_item_is_deleted_even_if_the_catalog_is_full(
    catalog_bundles: Path, small_store: Callable[[], VersionedStore]
) -> None:
    with TestClient(worker_app(catalog_bundles, small_store, memory)) as client:
        for item_id in ("new", "item-1", "item-2"):
            assert client.patch(f"/v1/items/{item_id}", json={}).status_code == 200
        assert client.patch("/v1/items/item-3", json={}).status_code == 409
        assert client.delete("/v1/items/item-3").status_code == 204
        assert client.get("/v1/items/item-3").status_code == 404
        assert client.delete("/v1/items/nobody").status_code == 404
        assert client.patch("/v1/items/item-3", json={}).status_code == 200
        assert client.patch("/v1/items/item-4", json={}).status_code == 409


def test_attributes_that_the_bundle_has_alike_do_not_count_towards_the_limit(client: TestClient) -> None:
    for start in (0, 40, 80):
        names = [f"a{number}" for number in range(start, start + 40)]
        patched = client.patch("/v1/items/new", json={"attributes": dict.fromkeys(names, 1)})
        assert (patched.status_code, patched.json()["attributes"]) == (200, dict.fromkeys(names, 1))
        assert client.patch("/v1/items/new", json={"attributes": dict.fromkeys(names)}).json()["attributes"] == {}
    more = {"brand": "acme", "price": 1.0, "tags": None} | {f"b{number}": 1 for number in range(61)}
    assert client.patch("/v1/items/item-2", json={"attributes": more}).status_code == 200
    assert client.patch("/v1/items/item-2", json={"attributes": {"c": 1, "d": 1, "e": 1}}).status_code == 422
    two_more = client.patch("/v1/items/item-2", json={"attributes": {"c": 1, "d": 1}}).json()
    assert two_more["attributes"] == {key: value for key, value in more.items() if value is not None} | {"c": 1, "d": 1}
