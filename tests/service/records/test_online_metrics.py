"""Answers and attributed events are counted over all workers, grouped by the requested dimensions."""

import itertools
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from onward.bundle import RetrievedItem, RetrievedItems
from onward.service import telemetry
from onward.service.http.problems import add_error_handlers
from onward.service.http.routes.online_metrics import router
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answer_stores import InMemoryAnswerStore
from onward.service.records.answers import Answer
from onward.service.records.counters import MINUTE, Counters, InMemoryCounters, RedisCounters
from onward.service.records.online_metrics import MAX_WAITING, OnlineMetrics, OutcomeCounts
from onward.service.redis_client import RedisClient
from onward.service.sessions import AppliedEvent
from tests.service.clock import NOON_S, Clock
from tests.service.records.answer_ids import ANSWER_IDS, new_answer_id
from tests.service.records.catalogs import CATALOG, DIGEST, OTHER_DIGEST, LetterBundles

HOUR = timedelta(hours=1)

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest, calls: RedisClient, clock: Clock) -> Counters:
    if request.param == "memory":
        return InMemoryCounters(max_counters=20, clock=clock)
    return RedisCounters(calls, name=f"metrics-{next(numbers)}", max_counters=20, clock=clock)


@pytest.fixture
def answers() -> AnswerLog:
    store = InMemoryAnswerStore(ttl=HOUR, clock=lambda: NOON_S)
    return AnswerLog(store, LetterBundles(), ANSWER_IDS, ttl=HOUR, clock=lambda: NOON_S)


@pytest.fixture
def metrics(answers: AnswerLog, counters: Counters) -> OnlineMetrics:
    return OnlineMetrics(answers, counters)


async def serve(metrics: OnlineMetrics, answers: AnswerLog, items: str, **fields: Any) -> str:
    retrieved = RetrievedItems.of(RetrievedItem(item, 0.5, "encoder", 0) for item in items)
    answer = Answer(new_answer_id(None), int(NOON_S * 1000), fields.pop("bundle", DIGEST), retrieved, **fields)
    metrics.served(answer)
    answers.add(answer, CATALOG, generation="")
    await answers.flush()
    return answer.id


def event(item_id: str, kind: str = "view", answer_id: str | None = None, value: float | None = None) -> AppliedEvent:
    return AppliedEvent("visitor", item_id, kind, 1.0, int(NOON_S * 1000), value, None, answer_id, [item_id])


async def test_the_report_is_empty_without_answers(metrics: OnlineMetrics) -> None:
    await metrics.flush()
    report = await metrics.report(HOUR, ())
    assert (report.outcomes, report.unattributed) == ({}, 0)


async def test_an_event_is_attributed_to_the_answer_that_it_names(metrics: OnlineMetrics, answers: AnswerLog) -> None:
    answer_id = await serve(metrics, answers, "abc")
    await serve(metrics, answers, "ab")
    metrics.applied([event("a", "view", answer_id), event("b", "share", answer_id), event("c")])
    metrics.applied([event("a", "purchase", answer_id, value=12.5), event("b", "purchase", answer_id, value=0.25)])
    await metrics.flush()
    report = await metrics.report(HOUR, ())
    expected = OutcomeCounts(2, 5, {"view": 1, "share": 1, "purchase": 2}, {"purchase": 12.75})
    assert report.outcomes == {(): expected}
    assert (expected.click_through_rate, expected.conversion_rate) == (1 / 5, 2.0)
    assert report.unattributed == 0


def test_rates_of_nothing_are_none() -> None:
    assert (OutcomeCounts().click_through_rate, OutcomeCounts(1, 5).conversion_rate) == (None, None)


async def test_an_event_without_a_stored_answer_of_its_item_is_unattributed(
    metrics: OnlineMetrics, answers: AnswerLog
) -> None:
    answer_id = await serve(metrics, answers, "abc")
    metrics.applied([event("x", "view", answer_id), event("a", "view", new_answer_id(None)), event("a", "view", "?")])
    metrics.applied([event("a", "view", answer_id), event("a", "view", answer_id)])
    await metrics.flush()
    metrics.applied([event("a", "view", answer_id)])
    await metrics.flush()
    report = await metrics.report(HOUR, ())
    assert report.outcomes[()].events == {"view": 1}
    assert report.unattributed == 5


async def test_every_event_is_unattributed_if_no_answers_are_stored(counters: Counters) -> None:
    metrics = OnlineMetrics(None, counters)
    metrics.applied([event("a", "view", new_answer_id(None))])
    await metrics.flush()
    assert (await metrics.report(HOUR, ())).unattributed == 1


async def test_outcomes_are_grouped_by_the_requested_dimensions(metrics: OnlineMetrics, answers: AnswerLog) -> None:
    home = await serve(metrics, answers, "a", scenario="home", variant="x")
    await serve(metrics, answers, "a", scenario="home", variant="y")
    await serve(metrics, answers, "a", scenario='"a", b', bundle=OTHER_DIGEST)
    metrics.applied([event("a", "cart", home)])
    await metrics.flush()
    by_scenario = (await metrics.report(HOUR, ["scenario"])).outcomes
    assert {group: outcome.answers for group, outcome in by_scenario.items()} == {("home",): 2, ('"a", b',): 1}
    assert by_scenario["home",].events == {"cart": 1}
    by_all = (await metrics.report(HOUR, ["variant", "bundle", "scenario"])).outcomes
    assert set(by_all) == {("home", DIGEST, "x"), ("home", DIGEST, "y"), ('"a", b', OTHER_DIGEST, "")}
    assert by_all["home", DIGEST, "x"].events == {"cart": 1}


async def test_counts_of_several_workers_add_up(counters: Counters, answers: AnswerLog) -> None:
    workers = [OnlineMetrics(answers, counters) for _ in range(3)]
    for worker in workers:
        await serve(worker, answers, "ab")
        await worker.flush()
    assert (await workers[0].report(HOUR, ())).outcomes == {(): OutcomeCounts(3, 6)}


@pytest.mark.parametrize(
    ("passed", "window", "is_within", "resolution"),
    [
        (timedelta(), timedelta(minutes=1), True, "minute"),
        (timedelta(minutes=59), HOUR, True, "minute"),
        (timedelta(minutes=61), HOUR, False, "minute"),
        (timedelta(hours=2), timedelta(hours=2), True, "minute"),
        (timedelta(hours=2), timedelta(hours=3), True, "hour"),
        (timedelta(hours=4), timedelta(hours=3), False, "hour"),
        (timedelta(days=30), timedelta(days=30), True, "hour"),
    ],
)
async def test_a_window_covers_its_length(
    metrics: OnlineMetrics,
    answers: AnswerLog,
    clock: Clock,
    passed: timedelta,
    window: timedelta,
    resolution: str,
    *,
    is_within: bool,
) -> None:
    await serve(metrics, answers, "abc")
    await metrics.flush()
    clock.advance(passed)
    report = await metrics.report(window, ())
    assert bool(report.outcomes) == is_within
    assert report.period.name == resolution
    assert report.since.timestamp() == pytest.approx(clock.now_s - window.total_seconds(), abs=3600)


async def test_the_number_of_counters_is_limited(
    metrics: OnlineMetrics, answers: AnswerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    answer_id = await serve(metrics, answers, "a")
    metrics.applied([event("a", f"type-{number}", answer_id) for number in range(30)])
    for _ in range(2):
        metrics.served(Answer("", 0, DIGEST, RetrievedItems()))
        await metrics.flush()
    counts = (await metrics.report(HOUR, ())).outcomes[()]
    assert len(counts.events) == 18  # of 20, with answers and impressions
    assert counts.answers == 3
    assert sum(lost) == 2 * 12  # each for the minute and for the hour


async def test_values_above_the_limit_are_not_summed(metrics: OnlineMetrics, answers: AnswerLog) -> None:
    answer_id = await serve(metrics, answers, "abc")
    values = {"a": 1e308, "b": 1e12, "c": 0.0}
    metrics.applied([event(item, "purchase", answer_id, value) for item, value in values.items()])
    await metrics.flush()
    assert (await metrics.report(HOUR, ())).outcomes[()] == OutcomeCounts(1, 3, {"purchase": 3}, {"purchase": 1e12})


async def test_events_beyond_the_queue_limit_are_lost_and_counted(
    metrics: OnlineMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    metrics.applied([event("a", "view", "?")] * (MAX_WAITING + 3))
    assert sum(lost) == 3


class TestTheEndpoint:
    """GET /v1/metrics/online."""

    @pytest.fixture
    async def client(self, metrics: OnlineMetrics, answers: AnswerLog) -> TestClient:
        app = FastAPI()
        app.include_router(router)
        add_error_handlers(app)

        class Recorder:
            """The part of a Recorder that the endpoint uses."""

            def __init__(self) -> None:
                self.metrics = metrics

        @app.middleware("http")
        async def with_recorder(request: Request, call_next: Any) -> Any:
            request.state.recorder = Recorder()
            return await call_next(request)

        return TestClient(app)

    @pytest.fixture
    def counters(self, clock: Clock) -> Counters:
        return InMemoryCounters(clock=clock)

    async def test_rates_come_with_counts(self, client: TestClient, metrics: OnlineMetrics, answers: AnswerLog) -> None:
        answer_id = await serve(metrics, answers, "abcd", scenario="home")
        metrics.applied([event("a", "view", answer_id), event("b", "view", answer_id)])
        metrics.applied([event("a", "purchase", answer_id, 3.5), event("a", "like", answer_id)])
        await metrics.flush()
        report = client.get("/v1/metrics/online", params={"window": "PT1H", "by": "scenario"}).json()
        assert report == {
            "since": "2026-11-22T11:00:00Z",
            "resolution": "minute",
            "outcomes": [
                {
                    "scenario": "home",
                    "answers": 1,
                    "impressions": 4,
                    "clicks": 2,
                    "carts": 0,
                    "purchases": 1,
                    "others": {"like": 1},
                    "values": {"purchase": 3.5},
                    "click_through_rate": 0.5,
                    "conversion_rate": 0.5,
                }
            ],
            "unattributed": 0,
        }

    async def test_rates_are_absent_without_impressions_and_clicks(
        self, client: TestClient, metrics: OnlineMetrics, answers: AnswerLog
    ) -> None:
        await serve(metrics, answers, "")
        await metrics.flush()
        (outcome,) = client.get("/v1/metrics/online").json()["outcomes"]
        assert (outcome["answers"], outcome["impressions"]) == (1, 0)
        assert "click_through_rate" not in outcome
        assert "conversion_rate" not in outcome

    @pytest.mark.parametrize(
        ("window", "status"),
        [(good, 200) for good in ("60", "60.5", "PT1M", "P30D", "2592000")]
        + [(bad, 422) for bad in ("59", "P31D", "soon", "-60", "1e999", "nan", "9" * 400, "", "P1Y")],
    )
    async def test_a_window_is_1_minute_to_30_days(self, client: TestClient, window: str, status: int) -> None:
        assert client.get("/v1/metrics/online", params={"window": window}).status_code == status

    @pytest.mark.parametrize(
        ("by", "status"),
        [
            ("variant", 200),
            ("bundle,scenario,variant", 200),
            ("bundle,bundle", 200),
            ("item", 422),
            ("bundle,", 422),
            ("bundle\n", 422),
        ],
    )
    async def test_only_known_dimensions_are_accepted(self, client: TestClient, by: str, status: int) -> None:
        assert client.get("/v1/metrics/online", params={"by": by}).status_code == status

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"window": "1h"}, "a duration is written in seconds or by ISO 8601, as in 90 or PT1M30S"),
            ({"window": "P31D"}, "a window is 1 minute to 30 days long"),
            ({"by": "item"}, "give scenario, bundle, variant or several of them, separated by commas"),
        ],
    )
    async def test_an_invalid_query_is_answered_with_what_is_expected(
        self, client: TestClient, query: dict[str, str], message: str
    ) -> None:
        (fault,) = client.get("/v1/metrics/online", params=query).json()["errors"]
        assert (fault["at"], fault["message"]) == (f"query.{next(iter(query))}", message)


async def test_counters_whose_key_holds_something_else_are_lost_by_themselves(
    answers: AnswerLog, calls: RedisClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda _, count: reported.append(count))
    monkeypatch.setattr(telemetry, "recording_failed", lambda _, error: reported.append(str(error)))
    name = f"metrics-{next(numbers)}"
    await calls.execute([("SET", f"onward:{{{name}}}:minute:{MINUTE.number(clock.now_s)}", "no hash")])
    metrics = OnlineMetrics(answers, RedisCounters(calls, name=name, clock=clock))
    for _ in range(2):
        metrics.served(Answer("", 0, DIGEST, RetrievedItems()))
        await metrics.flush()
    assert (await metrics.report(3 * HOUR, ())).outcomes[()].answers == 2
    assert "wrong kind of value" in reported[0]
    assert reported[1:] == [2, 2]  # answers and impressions of the minute
