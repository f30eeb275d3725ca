"""Jobs: what callers ask workers of training to do, in the store that both share."""

from typing import Any

from onward.bundle.jobs import (
    CANCEL,
    ENQUEUE,
    KEPT_JOBS,
    MAX_WAITING,
    READ,
    Job,
    JobKeys,
    job_of,
    stored_fields,
)
from onward.service.errors import JobFinished, JobNotFound, JobsOff, LimitReached, LiveStoreUnavailable
from onward.service.redis_client import RedisClient, Script, store_call
from onward.service.tenants import PREFIX


class Jobs:
    """Puts jobs into the store and reads them; without a store there are none."""

    def __init__(self, redis: RedisClient | None) -> None:
        """Use the store of a client, None for a service that has none."""
        self._redis = redis
        self._keys = JobKeys(PREFIX)
        if redis is not None:
            self._enqueue, self._cancel, self._read = (Script(redis, text) for text in (ENQUEUE, CANCEL, READ))

    @property
    def is_on(self) -> bool:
        """Whether there is a store to keep jobs in."""
        return self._redis is not None

    async def enqueue(self, job: Job) -> None:
        """Store a job that waits. Raises JobsOff, LimitReached, LiveStoreUnavailable."""
        keys = self._keys
        async with store_call(self._store(), LiveStoreUnavailable):
            stored = await self._enqueue(
                [keys.queue, keys.all, keys.running, keys.job(job.id)],
                [keys.prefix, job.id, MAX_WAITING, KEPT_JOBS, *stored_fields(job)],
            )
        if stored == -1:
            raise LimitReached(f"{MAX_WAITING} jobs wait already.")

    async def newest(self, skip: int, limit: int) -> list[Job]:
        """Return jobs, the newest first. Raises JobsOff, LiveStoreUnavailable."""
        async with store_call(self._store(), LiveStoreUnavailable):
            stored = await self._read([self._keys.all], [self._keys.prefix, skip, limit])
        return [job for fields in stored if (job := job_of(fields)) is not None]

    async def find(self, job_id: str) -> tuple[Job, list[str]]:
        """Return a job and its log. Raises JobNotFound, JobsOff, LiveStoreUnavailable."""
        store = self._store()
        async with store_call(store, LiveStoreUnavailable):
            commands = [("HGETALL", self._keys.job(job_id)), ("LRANGE", self._keys.log(job_id), 0, -1)]
            fields, lines = map(_reply, await store.execute(commands))
        pairs = [part for field in fields.items() for part in field] if isinstance(fields, dict) else fields
        if not pairs or (job := job_of(pairs)) is None:
            raise JobNotFound
        return job, [line.decode(errors="replace") for line in lines]

    async def cancel(self, job_id: str) -> None:
        """Cancel a job that waits, and have the worker of one that runs end it.

        Raises JobNotFound, JobFinished, JobsOff, LiveStoreUnavailable.
        """
        async with store_call(self._store(), LiveStoreUnavailable):
            outcome = await self._cancel([self._keys.job(job_id), self._keys.queue], [job_id])
        if outcome == -1:
            raise JobNotFound
        if outcome == 0:
            raise JobFinished

    async def close(self) -> None:
        """Close the connection to the store."""
        if self._redis is not None:
            await self._redis.aclose()

    def _store(self) -> RedisClient:
        if self._redis is None:
            raise JobsOff("The service keeps its state in memory, where no worker finds jobs; set REDIS_URL.")
        return self._redis


def _reply(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
