"""From a click log to recommendations by the commands, with every call of the README and the demo."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from onward.bundle import current_digest
from onward.training.__main__ import main
from tests.end_to_end.conftest import DemoFolders, training
from tests.service.process import ServiceProcess, wait_until

README = Path(__file__).parents[2] / "README.md"
DEMO_URL = "http://127.0.0.1:8000"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("curl ")]


def answer(call: str) -> str:
    done = subprocess.run([*shlex.split(call), "--fail-with-body"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{call}\n{done.stdout}"
    return done.stdout


@pytest.mark.slow
@needs_curl
def test_the_calls_of_the_readme_succeed(service: ServiceProcess) -> None:
    calls = curl_lines(README.read_text())
    assert len(calls) > 8
    answers = {call: answer(call.replace(DEMO_URL, service.url)) for call in calls}
    recommended = [json.loads(answers[call]) for call in calls if "/v1/recommendations" in call]
    assert recommended
    for recommendation in recommended:
        assert recommendation["count"] == 5
        assert {item["source"] for item in recommendation["items"]} == {"encoder"}
        assert not recommendation["degraded"]


@pytest.mark.slow
@needs_curl
def test_the_calls_that_the_demo_prints_succeed(service: ServiceProcess, shop: DemoFolders) -> None:
    command = [sys.executable, "-m", "onward.service", "examples", "--bundles", str(shop.bundles), "--url", service.url]
    calls = curl_lines(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(calls) == 9
    answers = [json.loads(answer(call) or "null") for call in calls]
    first, _, unseen, _, filtered, explained, session, _, _ = answers
    assert [item["source"] for item in first["items"]] == ["encoder"] * 5
    (disliked,), seen = session["disliked"], {event["item_id"] for event in session["events"]}
    assert len(seen) == 3
    assert seen.isdisjoint(item["id"] for item in unseen["items"])
    assert disliked not in [item["id"] for item in filtered["items"]]
    assert 0 < filtered["filter"]["eligible"] < unseen["filter"]["eligible"]
    assert {event["item_id"] for event in explained["explanation"]["items"][0]["contributions"]} == seen - {disliked}


@pytest.mark.slow
def test_the_encoder_beats_every_baseline_in_recall_and_ndcg(shop: DemoFolders) -> None:
    served = json.loads(training("evaluate", shop.bundles, "--data", shop.data, "--json"))
    floor = json.loads(training("baselines", "--data", shop.data, "--hide-last", "--json"))
    for name, metrics in floor.items():
        for metric in ("recall@20", "ndcg@20"):  # after 4 epochs some processors leave its MRR behind nearest sessions
            assert served[metric] > metrics[metric], (name, metric)
    assert served["exact"]["recall@20"] == pytest.approx(served["recall@20"], abs=0.01)
    assert served["examples"] == floor["popularity"]["examples"] > 1_000


@pytest.mark.slow
def test_an_answer_reflects_the_events_just_sent(service: ServiceProcess) -> None:
    with service.client() as client:
        client.post("/v1/recommendations", json={"session_id": "follower", "items": ["item-3"]})
        event = {"session_id": "follower", "item_id": "item-17", "type": "cart", "event_id": "once"}
        for applied in (1, 0):
            result = client.post("/v1/events", json=event).json()
            assert (result["applied"], result["duplicates"]) == (applied, 1 - applied)
        stored = client.get("/v1/sessions/follower/recommendations", params={"k": 10}).json()
        sent = client.post("/v1/recommendations", json={"items": ["item-3", "item-17"], "k": 10}).json()
    assert [item["id"] for item in stored["items"]] == [item["id"] for item in sent["items"]]
    assert [item["attributes"]["title"] for item in stored["items"]]


@pytest.mark.slow
def test_a_rebuilt_catalog_goes_live_without_a_restart(shop: DemoFolders, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(shop.bundles, bundles, symlinks=True)
    with ServiceProcess(bundles) as process, process.wait_until_ready().client() as client:
        query = {"items": ["item-17"], "k": 5}
        first = client.post("/v1/recommendations", json=query).json()["items"][0]["id"]
        items = pl.read_parquet(shop.items)
        items.with_columns(available=pl.col("available") & (pl.col("item_id") != first)).write_csv(tmp_path / "new.csv")
        digest = training("rebuild", "--bundles", bundles, "--items", tmp_path / "new.csv").strip()
        assert current_digest(bundles) == digest
        wait_until(lambda: client.get("/v1/version").json()["bundle"] == digest)
        after = client.post("/v1/recommendations", json=query).json()
        assert after["bundle"] == digest
        assert first not in [item["id"] for item in after["items"]]
        assert after["count"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nothing.csv", "--out", "data"], "nothing.csv"),
        (["train", "srgan", "--data", "data", "--out", "run"], "srgan: no such recipe"),
        (["train", "srgnn", "--data", "nowhere", "--out", "run"], "nowhere: not a dataset"),
        (["export", "nowhere", "--bundles", "bundles"], "nowhere: holds no run"),
        (["evaluate", "nowhere", "--data", "nowhere"], "nowhere"),
        (["rebuild", "--bundles", "nowhere"], "nowhere: holds no current bundle"),
        (["baselines", "--data", "nowhere"], "nowhere: not a dataset"),
        (["generate", "--out", "/proc/shop"], "/proc"),
        (["train", "srgnn"], "Missing option"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_a_usage_error_is_reported_in_one_line_with_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command runs in this process, which has imported already what takes seconds to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["onward-training", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert message in stderr
    assert "Traceback" not in stderr
    assert re.fullmatch(r"([^\n]* \.\.\.\n)*error: [^\n]*\n", stderr), stderr
    assert not stdout
