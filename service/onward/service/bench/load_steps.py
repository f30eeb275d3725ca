"""Run load steps against a server: a warm-up and a measured load at one rate."""

import secrets
from itertools import count

from onward.service.bench.load_generator.api import Api
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import OpenLoad
from onward.service.bench.load_generator.workload import Sessions
from onward.service.bench.measurement import Measurement, measure
from onward.service.bench.progress import Progress
from onward.service.bench.server import MeasurementError, Server
from onward.service.bench.slo import Slo

WARM_UP_SHARE = 0.25
"""Length of the warm-up, as a share of the step that follows it."""
MIN_TIMEOUT_S = 1.0


class LoadSteps:
    """Runs load steps one after another, each with session ids that the store has not seen."""

    def __init__(
        self, generator: LoadGenerator, server: Server, api: Api, sessions: Sessions, slo: Slo, progress: Progress
    ) -> None:
        self._generator, self._server, self._api, self._sessions = generator, server, api, sessions
        self._slo, self._progress = slo, progress
        self._timeout_s = max(MIN_TIMEOUT_S, *(2 * limit.ms / 1000 for limit in slo.limits))
        self._seeds = count(secrets.randbits(40))

    def __call__(self, rate: float, seconds: float) -> Measurement:
        """Measure the server at a rate in requests/s. Raises MeasurementError if nothing listens at its URL."""
        with self._progress.step(rate, seconds) as show_result:
            try:
                self._measure(rate, WARM_UP_SHARE * seconds)
                measurement = self._measure(rate, seconds)
            except OSError as error:
                raise MeasurementError(f"nothing listens at {self._server.url}: {error}") from error
            show_result(measurement.result, self._slo.misses(measurement.result))
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
