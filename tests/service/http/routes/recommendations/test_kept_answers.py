"""What is said of a kept answer, later and by another worker, is what the answer itself would have said."""

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from onward.service.server.embedded_store import find_servers, run_server
from onward.service.sessions import session_digest
from onward.service.settings import IN_MEMORY
from tests.service.process import wait_until
from tests.service.shop import ACME, CHEAP, ITEMS, UNHURRIED, get, ids, opened, publish_shop, recommend, send

numbers = itertools.count()

items = st.sampled_from([*ITEMS, "no-item", "日本", "new"])
queries = st.fixed_dictionaries(
    {"items": st.lists(items, min_size=1, max_size=6), "k": st.integers(1, 30)},
    optional={
        "exclude": st.lists(items, min_size=1, max_size=4),
        "exclude_seen": st.sampled_from([True, "purchased"]),
        "filter": st.just(CHEAP),
        "boost": st.just([{"filter": ACME, "factor": 2.5}]),
        "diversity": st.just(0.5),
        "pin": st.just([{"id": "item-5", "position": 1}, {"id": "new", "position": 3}]),
        "user_id": st.just("u"),
        "variant": st.just("b"),
    },
)


def explanation(client: TestClient, answer: dict[str, Any], **query: Any) -> dict[str, Any]:
    told = get(client, f"/v1/recommendations/{answer['recommendation_id']}/explanation", **query)
    del told["recommendation_id"]
    return told


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_kept_answers_say_what_answers_say_that_are_not_kept(bundles: Path, kind: str) -> None:
    with ExitStack() as stack:
        url = IN_MEMORY if kind == "memory" else stack.enter_context(run_server(find_servers()[0]))
        worker = stack.enter_context(opened(bundles, url, **UNHURRIED))
        worker.patch("/v1/items/new", json={"similar_to": ["item-7"]})
        reader = worker if kind == "memory" else stack.enter_context(opened(bundles, url, **UNHURRIED))
        wait_until(lambda: reader.get("/v1/items/new").status_code == 200)

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(queries, st.booleans(), st.sampled_from(["item-9", "item-40", "new", "no-item"]))
        def check(query: dict[str, Any], has_session: bool, other: str) -> None:
            if has_session:
                query["session_id"] = f"kept-{kind}-{next(numbers)}"
                send(worker, query["session_id"], "item-9", "purchase")
                send(worker, query["session_id"], "item-8", "dislike")
            direct = recommend(worker, **query, dry_run=True)
            kept = recommend(worker, **query)
            assert kept["items"] == direct["items"]
            told = explanation(reader, kept, why_not=other)
            del told["why_not"]
            unkept = direct["explanation"]
            del unkept["recommendation_id"]
            assert told == unkept
            page = reader.post(f"/v1/recommendations/{kept['recommendation_id']}/next", json={"k": 4}).json()
            rest = {name: value for name, value in query.items() if name not in ("pin", "items" if has_session else "")}
            exclude = [*query.get("exclude", ()), *ids(kept)]
            after = recommend(worker, **rest | {"k": 4, "exclude": exclude}, dry_run=True)
            assert ids(page) == ids(after)

        check()


def test_answers_of_an_earlier_bundle_are_continued_by_every_worker(tmp_path: Path, valkey: str) -> None:
    publish_shop(tmp_path)
    with opened(tmp_path, valkey, reload_interval=0.05, **UNHURRIED) as worker:
        answer = recommend(worker, items=["item-7", "item-3"], k=30)
        newer = publish_shop(tmp_path, seed=1)
        wait_until(lambda: get(worker, "/v1/version")["bundle"] == newer)
        with opened(tmp_path, valkey, **UNHURRIED) as later_worker:
            told = [explanation(client, answer)["items"] for client in (worker, later_worker)]
            assert told[0] == told[1]
            assert [item["id"] for item in told[0]] == ids(answer)
            pages = [
                client.post(f"/v1/recommendations/{answer['recommendation_id']}/next", json={"k": 10}).json()
                for client in (worker, later_worker)
            ]
            shown = [item for page in (answer, *pages) for item in ids(page)]
            assert len(set(shown)) == 50


def test_another_worker_knows_an_answer_by_ids_of_today_and_of_earlier_builds(bundles: Path) -> None:
    with run_server(find_servers()[0]) as url, opened(bundles, url, **UNHURRIED) as worker:
        answer = recommend(worker, session_id="visitor", items=["item-9"])
        masked = answer["recommendation_id"]
        assert session_digest("visitor") not in masked
        plain = session_digest("visitor") + masked[32:48] + masked[-2:]
        with opened(bundles, url, **UNHURRIED) as reader:
            for answer_id in (masked, plain):
                told = get(reader, f"/v1/recommendations/{answer_id}/explanation")
                assert ids(told) == ids(answer)
                page = reader.post(f"/v1/recommendations/{answer_id}/next", json={"k": 1})
                assert page.status_code == 200
                send(reader, "visitor", ids(page.json())[0], recommendation_id=page.json()["recommendation_id"])
            reader.delete("/v1/sessions/visitor")
            assert reader.get(f"/v1/recommendations/{masked}/explanation").status_code == 404
