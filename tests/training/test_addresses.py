"""The commands with addresses in place of folders, against a real S3 server; and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from onward.bundle.release_state import ReleaseState
from onward.bundle.storage import Address, ObjectStore
from onward.training.cli import cli
from onward.training.data.dataset import INFO_FILE, Dataset
from onward.training.data.remote_dataset import CACHE, local_dataset, written_dataset
from onward.training.errors import InputError
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.training.conftest import walks

BUNDLES, DATA = f"s3://{BUCKET}/bundles", f"s3://{BUCKET}/dataset"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    with s3_server(monkeypatch) as server:
        yield server


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def refusal(*arguments: str | Path) -> str:
    """Return the line that a command is refused with."""
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def upload(file: Path, name: str) -> str:
    ObjectStore(Address("s3", BUCKET, "")).upload(file, name)
    return f"s3://{BUCKET}/{name}"


def state() -> ReleaseState:
    return ReleaseState.parse(ObjectStore(Address.parse(BUNDLES)).read("current").content)


@pytest.mark.slow
def test_a_recommender_is_made_and_released_without_a_folder_of_this_machine(s3: S3Server, tmp_path: Path) -> None:
    for number, part in enumerate(walks(300, seed=5).iter_slices(700)):
        part.write_parquet(tmp_path / f"{number}.parquet")
        upload(tmp_path / f"{number}.parquet", f"events/day={number}/events.parquet")
    catalog = tmp_path / "items.jsonl"
    ids = walks(300, seed=5)["item_id"].unique().sort()
    catalog.write_text("".join(json.dumps({"item_id": item, "price": 2.5}) + "\n" for item in ids))
    items = upload(catalog, "items.jsonl")
    options = ("--min-support", "1", "--min-length", "2", "--validation", "0.1", "--test-share", "0.1")
    run("prepare", f"s3://{BUCKET}/events", "--items", items, "--out", DATA, *options)
    assert "exists already" in refusal("prepare", f"s3://{BUCKET}/events", "--out", DATA, *options)
    run("train", "knn", "--data", DATA, "--out", tmp_path / "run", "--device", "cpu")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == DATA
    first = run("export", tmp_path / "run", "--bundles", BUNDLES, "--index", "flat")
    assert state().live == first
    second = run("export", tmp_path / "run", "--bundles", BUNDLES, "--index", "flat", "--staged")
    assert state().bundles[second].staged
    CliRunner().invoke(cli, ["gate", BUNDLES, "--data", DATA])
    gate = state().bundles[second].gate
    assert gate is not None
    assert gate["live"] == first
    run("activate", BUNDLES, "--force", "--reason", "test")
    assert state().live == second
    rebuilt = run("rebuild", "--bundles", BUNDLES, "--items", items, "--index", "flat")
    assert state().live == rebuilt
    metrics = json.loads(run("evaluate", BUNDLES, "--data", DATA, "--json"))
    assert metrics == json.loads(run("evaluate", f"{BUNDLES}/{rebuilt}", "--data", DATA, "--json"))
    assert "popularity" in run("baselines", "--data", DATA, "--json")


def test_an_event_log_at_an_address_is_read_and_its_answers_are_not_fetched(s3: S3Server, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    walks(200, seed=1).rename({"timestamp": "timestamp_ms"}).write_ndjson(log)
    upload(log, "events/events-20260101T000000Z-00.jsonl")
    upload(log, "events/tenant-a/events-20260101T000000Z-01.jsonl")
    upload(log, "events/answers-20260101T000000Z-02.jsonl")
    run("prepare", f"s3://{BUCKET}/events", "--out", tmp_path / "dataset", "--min-support", "1")
    fetched = {path.rpartition("/")[2] for method, path in s3.requests if method == "GET" and path.endswith("jsonl")}
    assert fetched == {"events-20260101T000000Z-00.jsonl", "events-20260101T000000Z-01.jsonl"}


def test_a_copy_of_a_dataset_is_made_once_and_again_when_it_was_replaced(s3: S3Server, dataset: Dataset) -> None:
    address = Address.parse(DATA)
    for expected in (1, 2):
        with written_dataset(address, force=expected > 1) as folder:
            folder.mkdir()
            for file in dataset.folder.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            info = dataset.info.model_copy(update={"sources": (str(expected),)})
            (folder / INFO_FILE).write_text(info.model_dump_json())
        copy = Dataset.open(local_dataset(address))
        assert copy.info.sources == (str(expected),)
        assert (copy.source, copy.name) == (DATA, "dataset")
        count = len(s3.requests)
        assert local_dataset(address) == copy.folder
        assert len(s3.requests) == count + 1  # dataset.json alone
    assert copy.item_ids() == dataset.item_ids()
    ObjectStore(address).write("items.parquet", b"torn")
    ObjectStore(address).write(INFO_FILE, dataset.info.model_dump_json().encode())
    with pytest.raises(InputError, match=r"items\.parquet: is damaged, or is just being replaced"):
        local_dataset(address)


def test_two_preparations_at_once_are_told_apart(s3: S3Server) -> None:
    address = Address.parse(DATA)
    first = written_dataset(address, force=False)
    for context in (first, written_dataset(address, force=False)):
        folder = context.__enter__()
        folder.mkdir()
        pl.DataFrame({"row": [1]}).write_parquet(folder / "items.parquet")
        (folder / INFO_FILE).write_text("{}")
        if context is not first:
            context.__exit__(None, None, None)
    with pytest.raises(InputError, match="another process has written it meanwhile"):
        first.__exit__(None, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "foo://b/x", "--out", "dataset"),
        ("prepare", "events.csv", "--out", "foo://b/x"),
        ("prepare", "events.csv", "--items", "foo://b/x", "--out", "dataset"),
        ("train", "knn", "--data", "foo://b/x", "--out", "run"),
        ("baselines", "--data", "foo://b/x"),
        ("evaluate", "foo://b/x", "--data", "dataset"),
        ("export", "run", "--bundles", "foo://b/x"),
        ("rebuild", "--bundles", "foo://b/x"),
        ("fit", "events.csv", "--bundles", "foo://b/x"),
        ("gate", "foo://b/x", "--data", "dataset"),
        ("activate", "foo://b/x"),
        ("worker", "--bundles", "foo://b/x", "--redis-url", "redis://127.0.0.1:1"),
        ("tune", "knn", "--data", "foo://b/x", "--out", "study"),
        ("compare", "knn", "--data", "foo://b/x", "--out", "comparison"),
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_unknown_schemes_are_refused(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("events.csv").write_text("session_id,item_id,timestamp\na,b,1\n")
    assert "foo://b/x: unknown scheme; write a path of this machine, or s3://" in refusal(*arguments)
    assert {file.name for file in tmp_path.iterdir()} <= {"events.csv", "fit"}


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "knn", "--data", "dataset", "--out", "s3://b/run"), "--out"),
        (("train", "knn", "--data", "dataset", "--out", "run", "--from", "foo://b/run"), "--from"),
        (("train", "s3://b/knn.toml", "--data", "dataset", "--out", "run"), "{recipe}"),
        (("generate", "--out", "s3://b/shop"), "--out"),
        (("export", "s3://b/run", "--bundles", "bundles"), "{runs}"),
        (("export", "run", "--bundles", "bundles", "--data", "memory://b/x"), None),
        (("results", "gs://b/results", "--out", "results.md"), "{records}"),
        (("rebuild", "--bundles", "bundles", "--changes", "az://b/changes"), "--changes"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_addresses_are_refused_where_they_are_not_taken(
    arguments: tuple[str, ...], option: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if option is None:
        assert "is in the memory of one process" in refusal(*arguments)
    else:
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == 2
        assert option in result.output
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    assert refusal("baselines", "--data", DATA) == f"{DATA}: obstore is not installed: pip install 'onward[cloud]'"
    assert "pip install 'onward[cloud]'" in refusal("activate", BUNDLES)


def test_file_addresses_are_folders(dataset: Dataset, tmp_path: Path) -> None:
    assert run("baselines", "--data", f"file://{dataset.folder}", "--json") == run(
        "baselines", "--data", dataset.folder, "--json"
    )
    assert "file:///FOLDER" in refusal("baselines", "--data", "file://host/dataset")
