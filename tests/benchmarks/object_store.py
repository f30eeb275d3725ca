"""Bundles through an object store: `python -m tests.benchmarks.object_store`.

Against moto's S3 server in a process of its own, or with --address against a store that the environment has credentials
of: the time from the upload of a small bundle to the first moment at which the service serves it, and the rates at
which a large one is uploaded and pulled, verification included. Prints one line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from onward.bundle import current_digest
from onward.bundle.mirror import Mirror
from onward.bundle.remote_bundles import working_copy
from onward.bundle.storage import Address, place_of
from onward.training.hardware import machine
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET
from tests.service.process import ServiceProcess, wait_until

SERVER = """
import sys
from tests.s3_server import S3Server, make_bucket
server = S3Server()
make_bucket(server)
print(server.port, flush=True)
sys.stdin.read()
"""
INTERVAL_S = 1.0
"""Of the service's looks at the address, as by default."""


def main(
    items: Annotated[int, typer.Option(min=1_000, help="Items of a bundle, of 64 numbers each.")] = 100_000,
    swaps: Annotated[int, typer.Option(min=1, help="How many bundles are published while the service runs.")] = 10,
    address: Annotated[str | None, typer.Option(help="An empty folder of a bucket.  [default: moto's server]")] = None,
) -> None:
    """Print how long a bundle takes from its publication to being served, and how fast it travels."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        place = place_of(address) if address else running.enter_context(_s3_server())
        assert isinstance(place, Address)
        publish_bundle(folder / "built", item_ids("a", items), dimension=64)
        digest = str(current_digest(folder / "built"))
        size = sum(file.stat().st_size for file in (folder / "built" / digest).iterdir())
        started_s = time.perf_counter()
        with working_copy(place) as copy:
            publish_bundle(copy, item_ids("a", items), dimension=64)
            built_s = time.perf_counter() - started_s
        upload_s = time.perf_counter() - started_s - built_s
        mirror = Mirror(place, folder / "mirror")
        with mirror.held():
            pull_s = mirror.pull().seconds
        served_s = running.enter_context(_served(place, swaps))
    typer.echo(
        json.dumps(
            {
                "benchmark": "object_store",
                **machine("obstore", "moto"),
                "store": address or "moto",
                "items": items,
                "bundle_mb": round(size / 1e6, 1),
                "upload_s": round(upload_s, 2),
                "upload_mb_per_s": round(size / 1e6 / upload_s, 1),
                "pull_s": round(pull_s, 2),
                "pull_mb_per_s": round(size / 1e6 / pull_s, 1),
                "swaps": swaps,
                "interval_s": INTERVAL_S,
                "push_to_served_s": {
                    "median": round(median(served_s), 2),
                    "worst": round(max(served_s), 2),
                },
            }
        )
    )


@contextmanager
def _served(place: Address, swaps: int) -> Iterator[list[float]]:
    """Publish small bundles one after another; yield the time of each until a service serves it, in s."""
    times_s = []
    environment = {"SERVICE_RELOAD_INTERVAL": str(INTERVAL_S)}
    with ServiceProcess(str(place), environment=environment).wait_until_ready() as service:
        for seed in range(1, swaps + 1):
            with working_copy(place) as copy:
                digest = publish_bundle(copy, item_ids("a", 1_000), seed=seed)
                started_s = time.perf_counter()
            wait_until(lambda digest=digest: any(line["bundle"] == digest for line in service.events("bundle live")))
            times_s.append(time.perf_counter() - started_s)
    yield times_s


@contextmanager
def _s3_server() -> Iterator[Address]:
    """Run moto's server in a process of its own; this process and the service find it by their environment."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        port = int(server.stdout.readline())
        variables: dict[str, Any] = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
        os.environ.update(variables)
        try:
            yield Address("s3", BUCKET, "benchmark")
        finally:
            server.stdin.close()


if __name__ == "__main__":
    typer.run(main)
