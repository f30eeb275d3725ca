"""A job is done once: by one of several workers, cancelled, given back, or taken again when its worker was killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from onward.bundle import current_digest, staged_bundles
from onward.bundle.jobs import KEPT_JOBS, Job, JobKind, new_job
from onward.bundle.releases import list_releases
from onward.bundle.remote_bundles import working_copy
from onward.bundle.storage import Address
from onward.service.server.embedded_store import find_servers, run_server
from onward.training.errors import InputError
from onward.training.jobs import worker as worker_module
from onward.training.jobs.commands_of_jobs import Workplace, change_release, command_of, live_changes
from onward.training.jobs.queue import JobQueue
from onward.training.jobs.schedule import enqueue_of_day, next_time
from onward.training.jobs.worker import Worker
from tests.bundles import item_ids, publish_bundle
from tests.service.demo_shop import demo_shop, publish_demo_shop
from tests.service.process import wait_until

IDS = item_ids("a", 10)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_server(find_servers()[0]) as url:
        yield url


@pytest.fixture
def queue(url: str) -> Iterator[JobQueue]:
    queue = JobQueue.connect(url, lease_s=1)
    yield queue
    queue.redis.flushall()
    queue.redis.close()


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "bundles", tmp_path / "work")


def folder_of(place: Workplace) -> Path:
    assert isinstance(place.bundles, Path)
    return place.bundles


def enqueued(queue: JobQueue, kind: JobKind = "rebuild", **options: object) -> Job:
    job = new_job(kind, options, by="ann", reason="new products")
    assert queue.enqueue(job)
    return job


def found(queue: JobQueue, job: Job) -> Job:
    stored = queue.find(job.id)
    assert stored is not None
    return stored


def run_python(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Have each job run a Python program."""
    monkeypatch.setattr(worker_module, "command_of", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr(worker_module, "REPORT_S", 0.05)


def silent(queue: JobQueue, place: Workplace) -> Worker:
    return Worker(queue, place, on_line=lambda line: None)


def test_a_job_is_done_with_its_log_and_result(
    queue: JobQueue, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_python(
        monkeypatch, "import sys; print('first', file=sys.stderr); print('second', file=sys.stderr); print('ab')"
    )
    job = enqueued(queue)
    worker = silent(queue, place)
    assert worker.run_one()
    done = found(queue, job)
    assert (done.state, done.result, done.tries, done.by, done.reason) == ("done", "ab", 1, "ann", "new products")
    assert done.started is not None
    assert queue.log(job.id) == ["first", "second"]
    assert not worker.run_one()


def test_a_job_that_fails_says_why(queue: JobQueue, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    run_python(monkeypatch, "import sys; sys.exit('error: no such dataset')")
    job = enqueued(queue)
    silent(queue, place).run_one()
    assert (found(queue, job).state, found(queue, job).error) == ("failed", "no such dataset")


def test_a_command_without_an_error_is_told_by_its_last_lines(
    queue: JobQueue, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_python(
        monkeypatch, "import sys; sys.stderr.write('fit\\nstaged, not live: below\\nsee fit.html\\n'); sys.exit(1)"
    )
    job = enqueued(queue)
    silent(queue, place).run_one()
    assert found(queue, job).error == "staged, not live: below; see fit.html"


def test_a_fit_needs_a_worker_with_events(queue: JobQueue, place: Workplace) -> None:
    job = enqueued(queue, "fit", budget="1m")
    silent(queue, place).run_one()
    assert "no events to fit to" in (found(queue, job).error or "")


def test_jobs_are_cancelled_while_they_wait_and_while_they_run(
    queue: JobQueue, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_python(monkeypatch, "import time; time.sleep(60)")
    running, waiting = enqueued(queue), enqueued(queue)
    queue.cancel(waiting.id)
    assert found(queue, waiting).state == "cancelled"
    thread = threading.Thread(target=silent(queue, place).run_one)
    thread.start()
    wait_until(lambda: found(queue, running).state == "running")
    queue.cancel(running.id)
    thread.join()
    assert found(queue, running).state == "cancelled"
    assert not silent(queue, place).run_one()


def test_the_job_of_a_lost_worker_is_taken_once_more_and_then_fails_by_name(queue: JobQueue) -> None:
    job = enqueued(queue)
    claimed: Job | None = None
    for worker in ("one", "two"):
        claimed = queue.claim(worker)
        assert claimed is not None
        assert (claimed.id, claimed.worker) == (job.id, worker)
        assert queue.claim("other") is None, "the lease has not ended"
        time.sleep(2.1)
    assert queue.claim("three") is None
    failed = found(queue, job)
    assert (failed.state, failed.error) == ("failed", "its worker two was lost, as the one before it was")
    assert claimed is not None
    assert queue.report(claimed, "late") == "lost"
    queue.finish(claimed, "done", result="late")
    assert found(queue, job).state == "failed"


def test_a_worker_that_is_stopped_gives_its_job_back(
    queue: JobQueue, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    job = enqueued(queue)
    monkeypatch.setattr(Worker, "_run_command", stopped)
    with pytest.raises(KeyboardInterrupt):
        silent(queue, place).run_one()
    assert (found(queue, job).state, found(queue, job).tries) == ("waiting", 0)
    assert queue.claim("other") is not None


def test_a_fit_goes_on_where_it_was_or_begins_anew_and_old_ones_are_forgotten(queue: JobQueue, tmp_path: Path) -> None:
    place = Workplace(tmp_path / "bundles", tmp_path / "work", ("events",), "items.csv")
    for day in range(1, 8):
        (place.work / f"fit-2026110{day}").mkdir(parents=True)
    job = new_job("fit", {"budget": "5m"}, job_id="20261109")
    out = place.work / "fit-20261109"
    (out / "dataset").mkdir(parents=True)
    command = command_of(job, place, queue.redis)
    assert command[3:6] == ["fit", "events", "--items"]
    assert command[-2:] == ["--budget", "5m"]
    assert [folder.name for folder in sorted(place.work.iterdir())] == [f"fit-2026110{day}" for day in range(4, 8)]
    out.mkdir()
    (out / "fit.json").touch()
    assert command_of(job, place, queue.redis)[-1] == "--resume"


def test_two_workers_do_each_job_once(queue: JobQueue) -> None:
    jobs = [enqueued(queue) for _ in range(20)]
    taken: list[str] = []

    def take(worker: str) -> None:
        while (job := queue.claim(worker)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=take, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(job.id for job in jobs)


def test_the_process_of_a_job_ends_with_its_worker(url: str, queue: JobQueue, place: Workplace, tmp_path: Path) -> None:
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    worker = (
        "import sys; from pathlib import Path; from onward.training.jobs import worker as w; "
        "from onward.training.jobs.commands_of_jobs import Workplace; from onward.training.jobs.queue import JobQueue; "
        f"w.command_of = lambda *_: [sys.executable, '-c', {program!r}]; "
        f"w.Worker(JobQueue.connect({url!r}), Workplace(Path('b'), Path('w'))).run_one()"
    )
    job = enqueued(queue)
    process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()

    def is_gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return (Path("/proc") / str(child) / "stat").read_text().split()[2] == "Z"

    wait_until(is_gone)
    assert found(queue, job).state == "running"


def test_a_worker_does_to_the_folder_what_the_service_may_not(queue: JobQueue, place: Workplace) -> None:
    first, second = (publish_bundle(folder_of(place), IDS, seed=seed, make_live=not seed) for seed in (0, 1))
    worker = silent(queue, place)
    for kind, state in (("protect", "done"), ("remove", "failed"), ("unprotect", "done"), ("activate", "done")):
        job = enqueued(queue, kind, bundle=second)  # type: ignore[arg-type]  # one of the kinds
        worker.run_one()
        assert found(queue, job).state == state
    assert current_digest(folder_of(place)) == second
    job = enqueued(queue, "remove", bundle=first)
    worker.run_one()
    assert "was live within the last" in (found(queue, job).error or "")


def test_a_rebuild_takes_in_the_live_catalog(queue: JobQueue, place: Workplace) -> None:
    digest = publish_demo_shop(folder_of(place), demo_shop())
    job = enqueued(queue, staged=True)
    silent(queue, place).run_one()
    done = found(queue, job)
    assert done.state == "done", queue.log(job.id)
    assert (current_digest(folder_of(place)), staged_bundles(folder_of(place))) == (digest, [done.result])
    assert "checking the current bundle" in " ".join(queue.log(job.id))


def test_the_changes_of_the_live_catalog_are_read_in_order(queue: JobQueue) -> None:
    redis = queue.redis
    for item, sequence in (("b", 7), ("a", 9)):
        redis.hset("onward:{items}:values", item, '[1,{"attributes":{"price":2},"available":true}]')
        redis.zadd("onward:{items}:changed", {item: sequence})
    redis.hset("onward:{items}:values", "gone", "[2,null]")
    redis.zadd("onward:{items}:changed", {"gone": 8})
    lines = live_changes(redis)
    assert len(lines) == 2
    assert '"b"' in lines[0]


def test_finished_jobs_are_forgotten_and_waiting_ones_are_not(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_JOBS > 3
    monkeypatch.setattr("onward.training.jobs.queue.KEPT_JOBS", 3)
    waiting = enqueued(queue)
    ended = [enqueued(queue) for _ in range(5)]
    for job in ended:
        queue.cancel(job.id)
    enqueued(queue)
    assert queue.find(waiting.id) is not None
    assert queue.find(ended[0].id) is None
    monkeypatch.setattr("onward.training.jobs.queue.MAX_WAITING", 2)
    with pytest.raises(InputError, match="2 jobs wait already"):
        enqueued(queue)


def test_a_schedule_makes_one_job_a_day(queue: JobQueue) -> None:
    now = datetime(2026, 11, 22, 3, 29, tzinfo=UTC)
    due = next_time("03:30", now)
    assert (due - now).total_seconds() == 60
    assert next_time("03:29", now).day == 23
    assert enqueue_of_day(queue, "fit", {"budget": "2h"}, due) == "20261122T033000-fit-of-the-day"
    assert enqueue_of_day(queue, "fit", {"budget": "2h"}, due) is None
    with pytest.raises(InputError, match="--at 'noon'"):
        next_time("noon", now)


def test_a_store_that_does_not_answer_is_named() -> None:
    with pytest.raises(InputError, match="--redis-url: ConnectionError: no Redis"):
        JobQueue.connect("redis://127.0.0.1:1")


def test_releases_at_an_address_are_changed_too() -> None:
    place = Workplace(Address("memory", "worker", "bundles"), Path("unused"))
    with working_copy(place.bundles) as folder:
        first, second = (publish_bundle(folder, IDS, seed=seed, make_live=not seed) for seed in (0, 1))
    kinds: tuple[JobKind, ...] = ("activate", "protect")
    for kind in kinds:
        assert change_release(new_job(kind, {"bundle": second}, by="key", reason="test"), place) == second
    with working_copy(place.bundles) as folder:
        assert [(of.digest, of.state, of.is_protected) for of in list_releases(folder)] == [
            (second, "live", True),
            (first, "retired", False),
        ]
