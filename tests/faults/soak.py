"""A long run at half load: `python -m tests.faults.soak --out docs/reliability`.

Two workers answer at a constant rate while bundles are swapped, the store is restarted, items change and a worker is
killed. Writes soak.json, with the figures of the first and the last fifth of the time, and soak.png. Fails if a request
fails, if answers are crossed, or if memory, file descriptors or threads grow.
"""

import json
import os
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Annotated

import typer

from tests.faults.processes import descriptors, rss_mib, threads, workers
from tests.faults.traffic import Traffic
from tests.redis_servers import RedisServer
from tests.service.process import ServiceProcess
from tests.service.shop import ATTRIBUTES, ITEMS, publish_shop

SAMPLE_S = 5.0
SWAP_EVERY_S, RESTART_EVERY_S, CHANGES_EVERY_S = 20.0, 120.0, 1.0
CHANGES = 5
MAX_GROWTH_MIB = 60
MAX_FAILED = 20
"""Requests on the connections of the worker that is killed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the service at one time."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    p99_ms: float


class Soak:
    """One run."""

    def __init__(self, bundles: Path, service: ServiceProcess, store: RedisServer, traffic: Traffic) -> None:
        self._bundles, self._service, self._store, self._traffic = bundles, service, store, traffic
        self.samples: list[Sample] = []
        self.swaps = self.store_restarts = self.catalog_changes = self.killed_workers = 0

    def run(self, seconds: float) -> None:
        """Run to the end."""
        started_s = time.perf_counter()
        due = dict.fromkeys(("sample", "swap", "restart", "change"), 0.0)
        steps = {
            "sample": (SAMPLE_S, self._sample),
            "swap": (SWAP_EVERY_S, self._swap),
            "restart": (RESTART_EVERY_S, self._restart),
            "change": (CHANGES_EVERY_S, self._change),
        }
        due["restart"] = RESTART_EVERY_S / 2
        while (now_s := time.perf_counter() - started_s) < seconds:
            for name, (interval_s, step) in steps.items():
                if now_s >= due[name]:
                    due[name] += interval_s
                    step(now_s)
            if not self.killed_workers and now_s > seconds / 2:
                os.kill(workers(self._service.pid)[0], signal.SIGKILL)
                self.killed_workers += 1
            time.sleep(0.05)

    def _sample(self, now_s: float) -> None:
        if now_s < SAMPLE_S:
            return
        recent = [outcome.latency_s for outcome in self._traffic.outcomes[-3_000:]]
        pid = self._service.pid
        p99_ms = 1000 * quantiles(recent, n=100)[-1]
        self.samples.append(Sample(now_s, rss_mib(pid), descriptors(pid), threads(pid), p99_ms))

    def _swap(self, _now_s: float) -> None:
        self.swaps += 1
        publish_shop(self._bundles, attributes=[{**item, "price": float(self.swaps)} for item in ATTRIBUTES])

    def _restart(self, _now_s: float) -> None:
        self.store_restarts += 1
        self._store.kill()
        time.sleep(1)
        self._store.start()

    def _change(self, now_s: float) -> None:
        with self._service.client() as client:
            for number in range(CHANGES):
                item = ITEMS[(int(now_s) * CHANGES + number) % len(ITEMS)]
                if client.patch(f"/v1/items/{item}", json={"attributes": {"price": now_s}}).is_success:
                    self.catalog_changes += 1


def draw(samples: list[Sample], out: Path) -> None:
    """Draw the samples over time."""
    import matplotlib as mpl  # slow to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(4, 1, figsize=(9, 9), sharex=True)
    minutes = [sample.at_s / 60 for sample in samples]
    for panel, (name, label) in zip(
        panels,
        {"rss_mib": "RSS, MiB", "descriptors": "descriptors", "threads": "threads", "p99_ms": "p99, ms"}.items(),
        strict=True,
    ):
        panel.plot(minutes, [getattr(sample, name) for sample in samples], linewidth=1)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for soak.json and soak.png.")],
    minutes: Annotated[float, typer.Option(min=0.5)] = 30,
    note: Annotated[str, typer.Option(help="What else the page should say of the run.")] = "",
    rate_per_s: Annotated[float, typer.Option(min=1, help="About half of what the machine bears.")] = 300,
) -> None:
    """Run the service for long, with faults."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        publish_shop(folder / "bundles")
        store = RedisServer(folder / "store")
        store.start()
        running.callback(store.kill)
        # A worker keeps the ids of a retired bundle, a file, as long as answers: with the default of 30 minutes their
        # number would grow over the whole run.
        environment = {"REDIS_URL": store.url, "SERVICE_ANSWER_TTL": "PT2M"}
        service = running.enter_context(
            ServiceProcess(folder / "bundles", "--workers", "2", environment=environment)
        ).wait_until_ready()
        traffic = running.enter_context(Traffic(service.url, ITEMS, rate_per_s=rate_per_s))
        soak = Soak(folder / "bundles", service, store, traffic)
        soak.run(60 * minutes)
        samples, outcomes = soak.samples, traffic.outcomes
    fifth = max(1, len(samples) // 5)
    figures = {
        name: [round(mean(getattr(sample, name) for sample in part), 1) for part in (samples[:fifth], samples[-fifth:])]
        for name in ("rss_mib", "descriptors", "threads", "p99_ms")
    }
    statuses = [outcome.status for outcome in outcomes]
    failed = sum(status not in (200, 429, 503) for status in statuses)
    result = {
        "minutes": minutes,
        "rate_per_s": rate_per_s,
        "note": note,
        "swaps": soak.swaps,
        "store_restarts": soak.store_restarts,
        "catalog_changes": soak.catalog_changes,
        "killed_workers": soak.killed_workers,
        "requests": len(outcomes),
        "degraded": sum(outcome.is_degraded for outcome in outcomes),
        "refused": sum(status in (429, 503) for status in statuses),
        "failed": failed,
        "codes": Counter(outcome.code for outcome in outcomes if outcome.code),
        "crossed": sum(outcome.is_crossed for outcome in outcomes),
        **figures,
        "samples": [asdict(sample) for sample in samples],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(result) + "\n")
    draw(samples, out / "soak.png")
    typer.echo(json.dumps({name: value for name, value in result.items() if name != "samples"}))
    grown_mib = figures["rss_mib"][1] - figures["rss_mib"][0]
    steady = figures["descriptors"][1] <= 1.2 * figures["descriptors"][0] + 10 and grown_mib < MAX_GROWTH_MIB
    if failed > MAX_FAILED or any(outcome.is_crossed for outcome in outcomes) or not steady:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
