"""Catalogs from 43 thousand to 10 million items: `python -m tests.benchmarks.catalogs RUN --out FOLDER`.

Builds a bundle of each size from a training run, by interpolation that keeps the structure of the trained item table
(`scaled_catalog`), and measures build, load and search time, recall, and the memory that two processes share. Without
a run it trains one epoch on a synthetic shop. Bundles in --out are reused. Prints one line of JSON.
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
START_TIMEOUT_S = 120


def main(
    run: Annotated[
        Path | None, typer.Argument(exists=True, help="A training run, of an encoder without users.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The run's dataset, if it has moved since.")] = None,
    items: Annotated[list[int] | None, typer.Option(min=1_000, help="Items of a catalog; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to keep the bundles.  [default: nowhere]")] = None,
) -> None:
    """Print the build, load and search time and the memory of catalogs of several sizes."""
    with ExitStack() as temporary:
        folder = out or Path(temporary.enter_context(tempfile.TemporaryDirectory()))
        trained = run or _quick_run(Path(temporary.enter_context(tempfile.TemporaryDirectory())))
        result = {
            "benchmark": "catalogs",
            **machine("faiss-cpu", "onnxruntime", "numpy"),
            "run": trained.name,
            "catalogs": {size: _measure(trained, data, size, folder) for size in items or [43_097, 1_000_000]},
        }
    typer.echo(json.dumps(result))


def _measure(run: Path, data: Path | None, items: int, folder: Path) -> dict[str, Any]:
    bundles = folder / _folder_name(items)
    if not (bundles / "current").exists():
        _build(run, data, items, bundles)
    bundle = (bundles / "current").resolve()
    manifest = read_manifest(bundle)[0]
    _say(f"{items:,} items: measuring")
    return {
        "build": json.loads((bundles / BUILD).read_text()),
        "index": manifest.index.model_dump(),
        "files_mb": {name: round(entry.size / 2**20, 1) for name, entry in manifest.files.items()},
        "first_answer_s": _first_answer_s(bundles, _first_item(bundle)),
        **_latency(bundle),
        "workers": _shared_memory(bundle),
    }


def _build(run: Path, data: Path | None, items: int, bundles: Path) -> None:
    from onward.training.export.export import load_trained
    from tests.benchmarks.large_bundles import publish_scaled

    dataset = Dataset.open(data or Path(read_run(run)["data"]))
    trained = load_trained(run, dataset)
    if trained.encoder.users:
        raise InputError(f"{run}: a {trained.recipe.model} has user vectors; give the run of a model without users")
    figures = publish_scaled(
        trained, dataset, items, bundles, target_recall=0.99, on_step=lambda step: _say(f"{items:,} items: {step}")
    )
    (bundles / BUILD).write_text(json.dumps(figures))


def _first_answer_s(bundles: Path, item_id: str) -> float:
    """Start the service and return the seconds until its first recommendation."""
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
            if time.perf_counter() - started > START_TIMEOUT_S:
                raise TimeoutError(f"{bundles}: no answer from the service within {START_TIMEOUT_S} s")
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


def _shared_memory(bundle: Path) -> list[dict[str, int]]:
    """Measure the memory of processes that hold the same bundle at the same time."""
    command = [sys.executable, "-m", "tests.benchmarks.catalog_memory", str(bundle)]
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
        figures = []
        for holder in holders:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write("\n")
            holder.stdin.flush()
            figures.append(json.loads(holder.stdout.readline()))
    return figures


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


def _latency(bundle: Path) -> dict[str, Any]:
    """Run `catalog_latency` and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.catalog_latency", str(bundle)],
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _first_item(bundle: Path) -> str:
    with (bundle / "ids.txt").open(encoding="utf-8") as ids:
        return ids.readline().rstrip("\n")


def _quick_run(folder: Path) -> Path:
    """Train one epoch on a synthetic shop."""
    shop, dataset, run = folder / "shop", folder / "dataset", folder / "run"
    for arguments in (
        ["generate", "--out", str(shop), "--events", str(EVENTS)],
        ["prepare", str(shop / "events.parquet"), "--out", str(dataset)],
        ["train", "srgnn", "--data", str(dataset), "--out", str(run), "--epochs", "1", "--device", "cpu"],
    ):
        subprocess.run([sys.executable, "-m", "onward.training", *arguments], stdout=subprocess.DEVNULL, check=True)
    return run


def _folder_name(items: int) -> str:
    """Return the folder name of a catalog: 43k, 1m, 10m."""
    return f"{items // 1_000_000}m" if items % 1_000_000 == 0 else f"{items // 1_000}k"


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
