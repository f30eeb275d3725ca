"""WorkerMetrics: figures of each worker between two readings of the metrics that all workers share.

Each worker writes its metrics to files in one folder, so any of them can read those of all.
"""

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from onward.service import telemetry

FIRST_WINDOW_S = 1.0
"""Time between two readings if nobody has read before."""
MIN_AGE_S = 0.5
MAX_AGE_S = 60.0
MAX_READINGS = 64

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[tuple[str, Labels], float]
"""Values by the name of the series and its labels."""


class Reading(NamedTuple):
    """The metrics of all workers at a time."""

    time_s: float
    workers: Mapping[int, Samples]
    """By process id; workers that have ended are left out."""


class Figures:
    """What one worker, or several, did in a time."""

    def __init__(self, seconds: float, samples: Samples, ever: Samples) -> None:
        """Take what was counted in so many seconds, and ever."""
        self.seconds = seconds
        self._samples = samples
        self._ever = ever

    def total(self, series: str, **labels: str) -> float:
        """Return the sum over all series with these labels."""
        return _total(self._samples, series, labels)

    def ever(self, series: str, **labels: str) -> float:
        """Return the same since the workers started."""
        return _total(self._ever, series, labels)

    def by(self, series: str, label: str) -> dict[str, float]:
        """Return sums by the values of a label, without zeros."""
        sums: defaultdict[str, float] = defaultdict(float)
        for (name, labels), value in self._samples.items():
            if name == series and value:
                sums[dict(labels)[label]] += value
        return dict(sums)

    def rates(self, series: str, label: str) -> dict[str, float]:
        """Return rates in a second by the values of a label, without zeros."""
        return {name: count / self.seconds for name, count in self.by(series, label).items()}

    def quantile_s(
        self, histogram: str, quantile: float, *, without_routes: Iterable[str] = (), **labels: str
    ) -> float | None:
        """Return a quantile of a histogram of seconds, linear within a bucket; None if nothing was observed."""
        wanted, excluded = labels.items(), {*without_routes}
        counts: defaultdict[float, float] = defaultdict(float)
        for (name, given), value in self._samples.items():
            own = dict(given)
            if name == f"{histogram}_bucket" and wanted <= own.items() and own.get("route") not in excluded:
                counts[float(own["le"])] += value
        return _quantile(dict(sorted(counts.items())), quantile)


class WorkerMetrics:
    """Reads the metrics of all workers, and remembers the readings of the last minute as long as it is asked."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque(maxlen=MAX_READINGS)

    async def figures(self, window_s: float) -> tuple[Figures, Mapping[int, Figures]]:
        """Return what all workers did together, and each, since a reading about `window_s` ago, or since the oldest.

        The first call takes a second, since it has to read twice.
        """
        if not self._recent(time.monotonic()):
            self._readings.append(await asyncio.to_thread(read))
            await asyncio.sleep(FIRST_WINDOW_S)
        now = await asyncio.to_thread(read)
        earlier = self._recent(now.time_s)
        start = max(
            (reading for reading in earlier if now.time_s - reading.time_s >= window_s), default=earlier[0], key=_time_s
        )
        if now.time_s - self._readings[-1].time_s >= MIN_AGE_S:
            self._readings.append(now)
        seconds = now.time_s - start.time_s
        differences = {
            pid: _difference(samples, start.workers.get(pid, {})) for pid, samples in sorted(now.workers.items())
        }
        workers = {pid: Figures(seconds, samples, now.workers[pid]) for pid, samples in differences.items()}
        return Figures(seconds, _sum(differences.values()), _sum(now.workers.values())), workers

    def _recent(self, now_s: float) -> list[Reading]:
        return [reading for reading in self._readings if MIN_AGE_S <= now_s - reading.time_s <= MAX_AGE_S]


def read() -> Reading:
    """Read the metrics of all workers that are running."""
    folder = os.environ.get(telemetry.MULTIPROCESS_FOLDER)
    if folder is None:
        return Reading(time.monotonic(), {os.getpid(): _samples(REGISTRY.collect())})
    files: defaultdict[int, list[str]] = defaultdict(list)
    for path in Path(folder).glob("*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if _is_running(pid):
            files[pid].append(str(path))
    workers = {pid: _samples(MultiProcessCollector.merge(paths)) for pid, paths in files.items()}  # type: ignore[no-untyped-call]  # untyped library
    return Reading(time.monotonic(), workers)


def _samples(metrics: Iterable[Metric]) -> Samples:
    """Return counters and histograms; gauges have no rates."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in metrics
        if metric.type in ("counter", "histogram") and metric.name.startswith("onward_")
        for sample in metric.samples
    }


def _total(samples: Samples, series: str, labels: Mapping[str, str]) -> float:
    wanted = labels.items()
    return sum(value for (name, given), value in samples.items() if name == series and wanted <= dict(given).items())


def _difference(now: Samples, then: Samples) -> Samples:
    return {series: value - then.get(series, 0.0) for series, value in now.items()}


def _sum(several: Iterable[Samples]) -> Samples:
    sums: defaultdict[tuple[str, Labels], float] = defaultdict(float)
    for samples in several:
        for series, value in samples.items():
            sums[series] += value
    return sums


def _quantile(counts: Mapping[float, float], quantile: float) -> float | None:
    """Return a quantile, given the number of values up to each bound; of the last bucket its lower bound."""
    total = max(counts.values(), default=0.0)
    if total <= 0:
        return None
    lower = below = 0.0
    for bound, count in counts.items():
        if count >= quantile * total:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (quantile * total - below) / (count - below)
        lower, below = bound, count
    return lower


def _time_s(reading: Reading) -> float:
    return reading.time_s


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
