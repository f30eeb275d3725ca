"""The limit of concurrent requests: lowered while requests queue for the processor, raised again afterwards."""

import pytest

from onward.service.http.admission.concurrency_limit import LEAST_LIMIT, TARGET_DELAY_S, WINDOW_S, ConcurrencyLimit

MOST = 256


class Worker:
    """A limit with a clock that the test moves."""

    def __init__(self, most: int = MOST) -> None:
        self.now_s = 0.0
        self.limit = ConcurrencyLimit(most, lambda: self.now_s)

    def run(self, delay_s: float, windows: int) -> int:
        """Start requests that were delayed, for some windows; return the limit."""
        for _ in range(windows):
            for _ in range(5):
                self.limit.start(delay_s)
            self.now_s += WINDOW_S
            self.limit.start(delay_s)
        return self.limit.limit


def test_it_is_reached_by_as_many_requests_as_it_allows() -> None:
    limit = Worker(most=2).limit
    assert [limit.try_enter() for _ in range(3)] == [True, True, False]
    limit.enter()  # one that is always admitted
    limit.leave()
    assert not limit.try_enter()
    limit.leave()
    assert limit.try_enter()


def test_it_falls_while_requests_queue_and_rises_afterwards() -> None:
    worker = Worker()
    assert worker.run(0.5 * TARGET_DELAY_S, 10) == MOST
    lowered = [worker.run(2 * TARGET_DELAY_S, 5) for _ in range(3)]
    assert sorted(lowered, reverse=True) == lowered
    assert len(set(lowered)) == len(lowered)
    assert worker.run(2 * TARGET_DELAY_S, 200) == LEAST_LIMIT
    risen = worker.run(0.5 * TARGET_DELAY_S, 10)
    assert LEAST_LIMIT < risen < MOST
    assert worker.run(0.5 * TARGET_DELAY_S, 200) == MOST


def test_a_single_pause_of_the_process_hardly_changes_it() -> None:
    worker = Worker()
    worker.run(0, 10)
    worker.run(50 * TARGET_DELAY_S, 1)
    assert worker.limit.limit > 0.8 * MOST


@pytest.mark.parametrize("most", [1, LEAST_LIMIT - 1])
def test_it_never_leaves_its_bounds(most: int) -> None:
    worker = Worker(most)
    assert worker.run(1.0, 100) == most
    assert worker.run(0.0, 100) == most
