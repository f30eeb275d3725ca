"""Catalogs from 43 thousand to 10 million items: `python -m tests.benchmarks.catalogs RUN --out FOLDER`.

Makes a bundle of each size from a training run, with the structure of what was trained (`enlarged`), and measures how
long it takes to build, to load and to search, what recall it has, and what two processes share. Without a run it makes
up a shop and trains on that for an epoch. The bundles stay in --out and are used again. Prints one line of JSON.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from onward.bundle import read_manifest
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.hardware import machine
from onward.training.run_folder import read_run

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
BUILD = "build.json"
EVENTS = 200_000
WORKERS = 2
LONGEST_START_S = 120


def main(
    run: Annotated[
        Path | None, typer.Argument(exists=True, help="A training run, of an encoder without users.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The run's dataset, if it has moved since.")] = None,
    items: Annotated[list[int] | None, typer.Option(min=1_000, help="Items of a catalog; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to keep the bundles.  [default: nowhere]")] = None,
) -> None:
    """Print what catalogs of several sizes cost to build, load, keep and search."""
    with ExitStack() as temporary:
        folder = out or Path(temporary.enter_context(tempfile.TemporaryDirectory()))
        trained = run or _quick_run(Path(temporary.enter_context(tempfile.TemporaryDirectory())))
        result = {
            "benchmark": "catalogs",
            **machine("faiss-cpu", "onnxruntime", "numpy"),
            "run": trained.name,
            "catalogs": {size: _measured(trained, data, size, folder) for size in items or [43_097, 1_000_000]},
        }
    typer.echo(json.dumps(result))


def _measured(run: Path, data: Path | None, items: int, folder: Path) -> dict[str, Any]:
    bundles = folder / _named(items)
    if not (bundles / "current").exists():
        _build(run, data, items, bundles)
    bundle = (bundles / "current").resolve()
    manifest = read_manifest(bundle)[0]
    _say(f"{items:,} items: measuring")
    return {
        "build": json.loads((bundles / BUILD).read_text()),
        "index": manifest.index.model_dump(),
        "files_mb": {name: round(entry.size / 2**20, 1) for name, entry in manifest.files.items()},
        "first_answer_s": _first_answer_s(bundles, _an_item(bundle)),
        **_figures(bundle),
        "workers": _shared(bundle),
    }


def _build(run: Path, data: Path | None, items: int, bundles: Path) -> None:
    from onward.training.export.export import load_trained
    from tests.benchmarks.large_bundles import publish_enlarged

    dataset = Dataset.open(data or Path(read_run(run)["data"]))
    trained = load_trained(run, dataset)
    if trained.encoder.users:
        raise InputError(f"{run}: a {trained.recipe.model} knows users; name a run of an encoder that does not")
    figures = publish_enlarged(
        trained, dataset, items, bundles, target_recall=0.99, on_step=lambda step: _say(f"{items:,} items: {step}")
    )
    (bundles / BUILD).write_text(json.dumps(figures))


def _first_answer_s(bundles: Path, item_id: str) -> float:
    """Seconds from the start of the service's process to its first recommendation."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "onward.service",
        "serve",
        "--bundles",
        str(bundles.resolve()),
        "--port",
        str(port),
    ]
    environment = {**os.environ, "SERVICE_LOG_LEVEL": "error"}
    started = time.perf_counter()
    with _running(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)):
        while not _answers(port, item_id):
            if time.perf_counter() - started > LONGEST_START_S:
                raise TimeoutError(f"{bundles}: the service gave no answer in {LONGEST_START_S} s")
            time.sleep(0.02)
        return round(time.perf_counter() - started, 2)


def _answers(port: int, item_id: str) -> bool:
    body = json.dumps({"items": [item_id], "k": 20}).encode()
    head = "POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return connection.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


def _shared(bundle: Path) -> list[dict[str, int]]:
    """Memory of processes that hold the same bundle at the same time."""
    command = [sys.executable, "-m", "tests.benchmarks.catalog_holder", str(bundle)]
    with ExitStack() as running:
        holders = [
            running.enter_context(
                _running(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **ONE_THREAD},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            )
            for _ in range(WORKERS)
        ]
        for holder in holders:
            assert holder.stdout is not None
            holder.stdout.readline()
        told = []
        for holder in holders:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write("\n")
            holder.stdin.flush()
            told.append(json.loads(holder.stdout.readline()))
    return told


@contextmanager
def _running(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _figures(bundle: Path) -> dict[str, Any]:
    """What `catalog_figures` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.catalog_figures", str(bundle)],
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _an_item(bundle: Path) -> str:
    with (bundle / "ids.txt").open(encoding="utf-8") as ids:
        return ids.readline().rstrip("\n")


def _quick_run(folder: Path) -> Path:
    """A run of one epoch on a made-up shop."""
    shop, dataset, run = folder / "shop", folder / "dataset", folder / "run"
    for arguments in (
        ["generate", "--out", str(shop), "--events", str(EVENTS)],
        ["prepare", str(shop / "events.parquet"), "--out", str(dataset)],
        ["train", "srgnn", "--data", str(dataset), "--out", str(run), "--epochs", "1", "--device", "cpu"],
    ):
        subprocess.run([sys.executable, "-m", "onward.training", *arguments], stdout=subprocess.DEVNULL, check=True)
    return run


def _named(items: int) -> str:
    """A catalog's folder: 43k, 1m, 10m."""
    return f"{items // 1_000_000}m" if items % 1_000_000 == 0 else f"{items // 1_000}k"


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
