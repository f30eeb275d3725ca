"""Changes that are applied as they come give what all of them give at once, whatever happens to the store."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.bundle import Bundle
from onward.bundle.catalog.filters import Filter
from onward.bundle.search.retrieval import Options, SessionView
from onward.service.live.applied_changes import AppliedChanges
from onward.service.live.catalog import ItemPatch, LiveCatalog
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import Entries, Entry, InMemoryVersionedStore
from onward.service.sessions import AppliedEvent
from tests.bundles import item_ids, make_bundle

IDS = item_ids("a", 20)
ATTRIBUTES: list[dict[str, Any]] = [{"brand": f"b{number % 4}", "price": float(number)} for number in range(20)]
NEW = item_ids("new", 3)
CHEAP = Filter.model_validate({"attribute": "price", "range": {"max": 5}})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """A bundle, and one that a rebuild made from it: it has an item more, and the changes up to the tenth."""
    folder = tmp_path_factory.mktemp("bundles")
    return [
        make_bundle(folder / "one", IDS, attributes=ATTRIBUTES),
        make_bundle(folder / "two", [*IDS, NEW[0]], attributes=[*ATTRIBUTES, {"brand": "b1"}], folded_changes=10),
    ]


def view(bundle: Bundle, live: LiveCatalog) -> dict[str, Any]:
    catalog = bundle.catalog
    ids = [item_id for item_id in [*IDS, *NEW] if catalog.row(item_id) is not None]
    cheap = catalog.eligible(CHEAP)
    answer = bundle.retrieve(SessionView(["a1", "a2", *NEW]), Options(30))
    return {
        "texts": dict(zip(ids, catalog.texts(ids), strict=True)),
        "new": [change.item_id for change in catalog.new_items],
        "deleted": [item_id for item_id in [*IDS, *NEW] if live.is_deleted(item_id)],
        "eligible": catalog.item_ids(catalog.eligible().selected.tolist()),
        "cheap": catalog.item_ids(cheap.selected.tolist()),
        "vectors": {item_id: live.cold_vector(item_id) for item_id in NEW},
        "answer": {item.item_id: pytest.approx(item.score, rel=1e-4) for item in answer.items},
    }


actions = st.one_of(
    st.tuples(st.just("price"), st.sampled_from([*IDS[:6], *NEW]), st.integers(0, 9)),
    st.tuples(st.just("hide"), st.sampled_from([*IDS[:6], *NEW]), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from([*IDS[:6], *NEW]), st.none()),
    st.tuples(st.just("brand"), st.sampled_from(NEW), st.sampled_from(["b1", "b2", None])),
    st.tuples(st.just("similar"), st.sampled_from(NEW), st.sampled_from(IDS)),
    st.tuples(st.just("seen"), st.sampled_from(NEW), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["swap", "clear", "lose", "empty"]), st.none(), st.none()),
)


class Shop:
    """A live catalog whose store counts its versions from one."""

    def __init__(self, bundles: list[Bundle]) -> None:
        ticks = itertools.count()
        self.bundles = bundles
        self.store = InMemoryVersionedStore(max_names=100, clock=lambda: next(ticks) / 1e6)
        self.live = LiveCatalog(Replica(self.store, "items"))
        self.kept: dict[str, Entry] = {}

    async def act(self, action: str, item_id: str, value: Any) -> None:
        if action == "swap":
            self.bundles = self.bundles[::-1]
        elif action == "clear":
            await self.store.clear()
        elif action == "lose":  # a failover to a server that lacks what came after the last time
            self.kept, self.store._entries = dict(self.store._entries), dict(self.kept)
            self.store.epoch += 1
        elif action == "empty":
            self.store._generation, self.store._entries = "", {}
        elif action == "delete":
            if self.bundles[0].catalog.row(item_id) is not None or item_id in self.live.entries:
                await self.live.delete(item_id, self.bundles[0])
        elif action == "seen":
            event = AppliedEvent("s", item_id, "view", 6.0, 0, None, None, None, [value, item_id])
            self.live.applied([event])
            await self.live.flush()
        else:
            patch = {
                "price": ItemPatch({"price": value}),
                "brand": ItemPatch({"brand": value}),
                "hide": ItemPatch(available=value),
                "similar": ItemPatch(similar_to=[str(value)]),
            }
            await self.live.patch({item_id: [patch[action]]})
        await self.live.follow()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(actions, min_size=1, max_size=14))
def test_changes_applied_as_they_come_equal_all_changes_at_once(
    bundles: list[Bundle], steps: list[tuple[str, Any, Any]]
) -> None:
    async def check() -> None:
        shop = Shop(bundles)
        for action, item_id, value in steps:
            await shop.act(action, item_id, value)
            changed = shop.live.applied_to(shop.bundles[0])
            fresh = LiveCatalog(shop.live._replica)
            expected = view(fresh.applied_to(shop.bundles[0]), fresh)
            assert view(changed, shop.live) == expected
            beside = shop.live.applied_once(shop.bundles[1])
            assert view(beside, fresh)["texts"] == view(fresh.applied_to(shop.bundles[1]), fresh)["texts"]
            assert (shop.live._applied or AppliedChanges(bundles[0])).folded == folded(shop)

    asyncio.run(check())


def folded(shop: Shop) -> int:
    last = shop.bundles[0].manifest.folded_changes
    return sum(entry.sequence <= last for entry in shop.live.entries.values() if entry.value is not None)


async def test_a_bundle_in_use_does_not_change(bundles: list[Bundle]) -> None:
    shop = Shop(bundles)
    await shop.act("price", "a9", 1)
    before = shop.live.applied_to(bundles[0])
    seen = view(before, shop.live)
    await shop.act("price", "a8", 1)
    after = shop.live.applied_to(bundles[0])
    assert (view(before, shop.live), view(after, shop.live)["cheap"]) == (seen, [*seen["cheap"][:-1], "a8", "a9"])


def test_entries_are_kept_as_texts() -> None:
    entries = Entries().updated({f"name-{number}": Entry(number, 1, {"available": False}) for number in range(500)})
    assert entries["name-7"] == Entry(7, 1, {"available": False})
    assert entries.updated({"name-7": Entry(7, 1, {"available": False})}) is entries
    other = entries.updated({"name-7": Entry(501, 2, None)})
    assert [name for name, _, _ in entries.differences(other)] == ["name-7"]
    assert len(other) == 500
