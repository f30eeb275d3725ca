"""Put a job into the store each day at a time; several schedules of one store make one job a day."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import RedisError

from onward.bundle.jobs import JobKind, new_job
from onward.training.errors import InputError
from onward.training.jobs.queue import JobQueue

RETRY_S = 30.0
LONGEST_SLEEP_S = 60.0
"""So that a clock that is set, or a machine that slept, delays a job by no more."""


def next_time(at: str, now: datetime) -> datetime:
    """Return the next time of day HH:MM, in UTC, after `now`. Raises InputError."""
    try:
        moment = datetime.strptime(at, "%H:%M").time()
    except ValueError as error:
        raise InputError(f"--at {at!r}: write hours and minutes of UTC, such as 03:30") from error
    due = datetime.combine(now.date(), moment, UTC)
    return due if due > now else due + timedelta(days=1)


def enqueue_of_day(queue: JobQueue, kind: JobKind, options: Mapping[str, Any], day: datetime) -> str | None:
    """Enqueue the job of a day; return its id, None if it is there already."""
    job = new_job(kind, options, by="schedule", job_id=f"{day:%Y%m%dT%H%M%S}-{kind}-of-the-day")
    return job.id if queue.enqueue(job) else None


def run_schedule(
    queue: JobQueue, at: str, kind: JobKind, options: Mapping[str, Any], on_line: Callable[[str], object]
) -> None:
    """Enqueue a job each day for ever; if the store does not answer, try again until it does."""
    while True:
        due = next_time(at, datetime.now(UTC))
        on_line(f"next {kind}: {due:%F %R} UTC")
        while (left_s := (due - datetime.now(UTC)).total_seconds()) > 0:
            time.sleep(min(left_s, LONGEST_SLEEP_S))
        while True:
            try:
                job_id = enqueue_of_day(queue, kind, options, due)
            except (RedisError, InputError) as error:
                on_line(f"{kind} of {due:%F %R} could not be put into the store, trying again: {error}")
                time.sleep(RETRY_S)
            else:
                on_line(
                    f"{job_id}: waits for a worker" if job_id else f"{kind} of {due:%F %R}: another schedule has it"
                )
                break
