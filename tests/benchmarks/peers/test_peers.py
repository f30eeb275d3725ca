import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.bundle import Bundle, ItemIndex
from onward.service.server.embedded_store import embedded_store
from onward.training.errors import InputError
from tests.benchmarks.peers.__main__ import groups, select_peers
from tests.benchmarks.peers.answers import exact_answers, last_answers, recall
from tests.benchmarks.peers.apps.model import Model
from tests.benchmarks.peers.comparison import Comparison, DifferentAnswers
from tests.benchmarks.peers.environments import NotInstalled, python_of
from tests.benchmarks.peers.measuring import CONNECTIONS, LESS_IS_BETTER, advantages, medians
from tests.benchmarks.peers.peer import PEERS, Peer
from tests.benchmarks.peers.server import NotStarted, Placement, onward, serving
from tests.bundles import publish_bundle

IDS = [f"item-{number}" for number in range(60)]
SESSIONS = (("item-3", "item-7"), ("item-50",), ("item-1", "item-1", "item-9"))
GOOD = PEERS[1]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, IDS)
    return folder


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with embedded_store() as url:
        assert url is not None
        yield url


def test_the_model_of_the_peers_gives_the_answers_of_the_bundle(bundles: Path) -> None:
    model, bundle = Model(bundles / "current"), Bundle.load(bundles / "current")
    batch = model.answers(SESSIONS, len(SESSIONS) * [{"k": 20}])
    assert [[item["id"] for item in answer["items"]] for answer in batch] == exact_answers(bundle, SESSIONS)
    assert batch == [model.answers([session], [{"k": 20}])[0] for session in SESSIONS]


def test_a_peer_and_the_service_return_the_same_items(bundles: Path, store: str) -> None:
    places = [Placement(f"{store}?db={number}", IDS[0], None, bundles) for number in range(2)]
    best = exact_answers(Bundle.load(bundles / "current"), SESSIONS)
    with (
        onward("Onward", bundles, places[0]) as ours,
        serving(GOOD, sys.executable, bundles / "current", places[1]) as peer,
    ):
        for server in (ours, peer):
            assert recall(last_answers(server.url, server.api, SESSIONS), best) == 1


def test_a_server_with_other_answers_is_refused(bundles: Path, store: str) -> None:
    place = Placement(f"{store}?db=2", IDS[0], None, bundles)
    others = [IDS[-20:] for _ in SESSIONS]
    comparison = Comparison(SESSIONS, others, on_step=print)
    with (
        serving(GOOD, sys.executable, bundles / "current", place) as peer,
        pytest.raises(DifferentAnswers, match=r"recall@20 0\.\d+ is below 0\.9900"),
    ):
        comparison.check(peer, 0.99)


def test_a_peer_that_does_not_start_is_reported_with_the_reason(bundles: Path) -> None:
    broken = Peer("broken", "no_such_app", lambda module, port: ["-m", module])
    place = Placement("redis://unused", IDS[0], None, bundles)
    with (
        pytest.raises(NotStarted, match=r"ended with code 1: .*No module named"),
        serving(broken, sys.executable, bundles / "current", place),
    ):
        pass


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("")
    requirements = tmp_path / "broken.txt"
    requirements.write_text("./no-such-folder\n")
    with pytest.raises(NotInstalled, match="no-such-folder"):
        python_of(requirements, tmp_path / "venvs")


def test_ratios_are_taken_within_a_round() -> None:
    def figures(rate: float) -> dict[str, object]:
        of_time = {"p50_ms": 1000 / rate, "p99_ms": 2000 / rate, "cpu_us_per_request": 1e6 / rate}
        return {"requests_per_s": rate, **of_time, "errors": Counter(late=1), "generator_limited": False}

    measured = {
        (name, connections): [figures(rate) for rate in rates]
        for connections in CONNECTIONS
        for name, rates in {"ours": (300, 900, 100), "theirs": (100, 100, 50)}.items()
    }
    assert set(advantages(measured, "ours", "theirs")[1].values()) == {3.0}
    assert medians(measured, "ours")[16]["requests_per_s"] == 300
    assert medians(measured, "ours")[16]["errors"] == {"late": 3}


def test_a_server_that_never_answers_has_no_ratio() -> None:
    unknown = dict.fromkeys(LESS_IS_BETTER)
    figures: dict[str, object] = {"requests_per_s": 0.0, **unknown, "errors": Counter(), "generator_limited": False}
    measured = {(name, connections): [figures] for connections in CONNECTIONS for name in ("ours", "theirs")}
    assert medians(measured, "theirs")[1]["p50_ms"] is None
    assert set(advantages(measured, "ours", "theirs")[1].values()) == {None}


def test_every_peer_has_settings_and_versions() -> None:
    for peer in PEERS:
        assert len(peer.settings) > 100
        assert all(peer.versions.values())
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_peers_are_selected_by_name_and_those_busy_when_idle_run_alone() -> None:
    busy = [peer for peer in PEERS if peer.is_busy_when_idle]
    assert select_peers("") == [*PEERS]
    assert [*groups(select_peers(""))][1:] == [[peer] for peer in busy]
    with pytest.raises(InputError, match="unknown peer 'gunicorn'"):
        select_peers("good FastAPI; gunicorn")


def test_candidates_of_a_quantized_index_are_reranked_by_their_vectors(bundles: Path) -> None:
    model, bundle = Model(bundles / "current"), Bundle.load(bundles / "current")
    model._candidates_per_k = 2
    assert isinstance(bundle.index, ItemIndex)
    answers = model.answers(SESSIONS, [{"k": 20}, {"k": 20}, {"k": 5}])
    best = exact_answers(bundle, SESSIONS)
    assert [[item["id"] for item in answer["items"]] for answer in answers] == [best[0], best[1], best[2][:5]]
