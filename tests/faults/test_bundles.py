"""Bundles that are damaged, swapped or changed in place while the service runs."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from onward.bundle import VECTORS, current_digest
from tests.faults.conftest import Record
from tests.faults.row import Row
from tests.faults.traffic import UNHURRIED, Traffic
from tests.service.process import ServiceProcess, wait_until
from tests.service.shop import ATTRIBUTES, ITEMS, publish_shop

SWAPS = 50


def test_swaps(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            for number in range(SWAPS):
                attributes = [{**item, "price": float(number)} for item in ATTRIBUTES]
                digest = publish_shop(bundles, attributes=attributes)
                wait_until(lambda digest=digest: service.events("bundle live")[-1]["bundle"] == digest, 20)
            ended_s = time.perf_counter()
        row = traffic.row(
            Row(
                "Bundles",
                f"{SWAPS} bundles are published one after another",
                "no request fails, and each answer names the bundle that gave it",
                observed=f"answers of {len(traffic.bundles)} bundles",
            ),
            ended_s=ended_s,
        )
        record(replace(row, kept=not (row.refused or row.failed or row.crossed or row.degraded)))


def test_damaged(bundles: Path, tmp_path: Path, record: Record) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service:
        first = str(current_digest(bundles))
        with Traffic(service.url, ITEMS) as traffic:
            for number in range(5):
                attributes = [{**item, "price": float(number)} for item in ATTRIBUTES]
                digest = publish_shop(tmp_path / "others", attributes=attributes)
                folder = shutil.copytree(tmp_path / "others" / digest, bundles / digest)
                content = bytearray((folder / VECTORS).read_bytes())
                content[len(content) * (number + 1) // 7] ^= 1 << number
                (folder / VECTORS).chmod(0o644)
                (folder / VECTORS).write_bytes(content)
                link = bundles / "next"
                link.symlink_to(digest)
                link.replace(bundles / "current")
                wait_until(lambda number=number: len(service.events("bundle refused")) > number, 20)
        row = traffic.row(
            Row(
                "Bundles",
                "5 bundles with one flipped bit each are made current",
                "each is refused by name and reason, and the bundle before serves on",
                observed=f"{len(service.events('bundle refused'))} refused",
            )
        )
        right = traffic.bundles == {first}
        record(replace(row, kept=right and not (row.refused or row.failed or row.crossed)))


def test_changed_in_place(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service:
        live = str(current_digest(bundles))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(0.5)
            for file in (bundles / live).iterdir():
                file.chmod(0o644)
                with file.open("r+b") as opened:
                    opened.truncate(file.stat().st_size // 2)
            time.sleep(2)
        row = traffic.row(
            Row(
                "Bundles",
                "every file of the serving bundle is shortened to half",
                "answers go on as before, and the change is told",
                observed="named by the log and by /health/ready",
            )
        )
        with service.client() as client:
            told = "bundle" in client.get("/health/ready").text and len(service.events("bundle refused")) > 0
        record(replace(row, kept=told and not (row.refused or row.failed or row.crossed or row.degraded)))
