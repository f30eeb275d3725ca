"""Items are stored in the order in which queries arrive, alone or in batches, in different event-loop iterations."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.bundle import Bundle
from onward.service.recommend.query import Query, Recommendation
from tests.bundles import item_ids, publish_bundle
from tests.service.recommend.test_pipeline import OPTIONS, Records, pipeline_of
from tests.service.sessions.stores import open_store, stored_items, view


def mixes(has_position: st.SearchStrategy[bool]) -> st.SearchStrategy[list[tuple[Any, int]]]:
    """Return requests, each with the iterations of the event loop until the next one."""
    query = st.tuples(st.sampled_from(["one", "two"]), has_position)
    batch = st.lists(query, min_size=1, max_size=20)  # more than MAX_BATCH
    return st.lists(st.tuples(query | batch, st.integers(1, 6)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, item_ids("a", 30))
    return Bundle.load(folder / "current")


@pytest.mark.parametrize("kind", ["memory", "redis"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(mix=mixes(st.just(False)) | mixes(st.booleans()))
def test_items_of_a_session_are_stored_in_the_order_of_their_queries(
    bundle: Bundle, kind: str, valkey: str, mix: list[tuple[Any, int]]
) -> None:
    async def compare() -> None:
        store: Any = open_store(kind, valkey, length=1_000)
        pipeline = pipeline_of(bundle, store, Records())
        names = {name: f"{name}-{uuid4()}" for name in ("one", "two")}
        first = {name: (await store.append(session_id, [view("a1")])).position for name, session_id in names.items()}
        numbers = iter(range(1_000))

        def query(name: str, has_position: bool) -> Query:
            position = first[name] if has_position else None
            return Query(names[name], [f"item-{next(numbers)}"], options=OPTIONS, position=position)

        sent: list[list[Query]] = []
        answering: list[asyncio.Task[Any]] = []
        for request, iterations in mix:
            if isinstance(request, tuple):
                sent.append([query(*request)])
                answering.append(asyncio.create_task(pipeline.recommend(sent[-1][0])))
            else:
                sent.append([query(*parts) for parts in request])
                answering.append(asyncio.create_task(pipeline.recommend_all(sent[-1])))
            for _ in range(iterations):
                await asyncio.sleep(0)
        for answer in await asyncio.gather(*answering):
            answers = answer if isinstance(answer, list) else [answer]
            assert all(isinstance(one, Recommendation) for one in answers)
        for session_id in names.values():
            _check_order(await stored_items(store, session_id), session_id, sent)
        await store.close()

    asyncio.run(compare())


def _check_order(stored: Sequence[str], session_id: str, sent: Sequence[Sequence[Query]]) -> None:
    """Require the order of each request, and that of all if no query had a position, for which later ones may wait."""
    of_requests = [[query.items[0] for query in queries if query.session_id == session_id] for queries in sent]
    in_order = [item for items in of_requests for item in items]
    assert sorted(stored[1:]) == sorted(in_order)
    for items in of_requests:
        assert [item for item in stored if item in items] == items
    if not any(query.position for queries in sent for query in queries):
        assert list(stored[1:]) == in_order
