"""One load after another, each of sessions that the store does not know yet."""

import secrets
from itertools import count

from onward.service.bench.api import Api
from onward.service.bench.arrivals import Arrivals
from onward.service.bench.generator import Generator
from onward.service.bench.load import OpenLoad
from onward.service.bench.measurement import Measurement, measure
from onward.service.bench.progress import Progress
from onward.service.bench.server import MeasurementError, Server
from onward.service.bench.slo import Slo
from onward.service.bench.workload import Sessions

WARM_UP_SHARE = 0.25
"""Of a trial's time, beside it."""
SHORTEST_TIMEOUT_S = 1.0


class Trials:
    """Loads a server at a rate, after a warm-up."""

    def __init__(
        self, generator: Generator, server: Server, api: Api, sessions: Sessions, slo: Slo, progress: Progress
    ) -> None:
        self._generator, self._server, self._api, self._sessions = generator, server, api, sessions
        self._slo, self._progress = slo, progress
        self._timeout_s = max(SHORTEST_TIMEOUT_S, *(2 * limit.ms / 1000 for limit in slo.limits))
        self._seeds = count(secrets.randbits(40))

    def __call__(self, rate: float, seconds: float) -> Measurement:
        """Measure a rate for some seconds. Raises MeasurementError."""
        with self._progress.trial(rate, seconds) as tell:
            try:
                self._measure(rate, WARM_UP_SHARE * seconds)
                measurement = self._measure(rate, seconds)
            except OSError as error:
                raise MeasurementError(f"nothing answers at {self._server.url}: {error}") from error
            tell(measurement.outcome, self._slo.misses(measurement.outcome))
        return measurement

    def _measure(self, rate: float, seconds: float) -> Measurement:
        load = OpenLoad(
            self._server.url,
            self._api,
            self._sessions,
            Arrivals(rate, seconds),
            timeout_s=self._timeout_s,
            seed=next(self._seeds),
        )
        return measure(self._generator, self._server, load)
