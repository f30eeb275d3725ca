"""JobQueue: jobs in a Redis or Valkey server, behind Sentinels, or in a cluster."""

from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from redis import Redis, RedisCluster, Sentinel
from redis.cluster import ClusterNode
from redis.exceptions import RedisError

from onward.bundle.jobs import (
    CANCEL,
    CLAIM,
    ENQUEUE,
    FINISH,
    KEPT_JOBS,
    LEASE_S,
    LOG_LINES,
    MAX_TRIES,
    MAX_WAITING,
    REPORT,
    Job,
    JobKeys,
    JobState,
    job_of,
    stored_fields,
)
from onward.training.errors import InputError

TIMEOUT_S = 5.0


class JobQueue:
    """The jobs of a store. Its methods raise RedisError if the store does not answer."""

    def __init__(self, redis: "Redis | RedisCluster", *, lease_s: int = LEASE_S) -> None:
        self.redis = redis
        self._keys = JobKeys()
        self._lease_s = lease_s

    @classmethod
    def connect(cls, url: str, *, lease_s: int = LEASE_S) -> Self:
        """Connect to a URL as of REDIS_URL. Raises InputError if it cannot be read or nothing answers."""
        try:
            redis = _client(url)
            redis.ping()
        except (RedisError, ValueError, OSError) as error:
            raise InputError(f"--redis-url: {type(error).__name__}: no Redis or Valkey answers there") from error
        return cls(redis, lease_s=lease_s)

    def enqueue(self, job: Job) -> bool:
        """Store a job that waits; False if its id is taken. Raises InputError if too many jobs wait."""
        keys = self._keys
        stored = self._run(
            ENQUEUE,
            [keys.queue, keys.all, keys.running, keys.job(job.id)],
            [keys.prefix, job.id, MAX_WAITING, KEPT_JOBS, *stored_fields(job)],
        )
        if stored == -1:
            raise InputError(f"{MAX_WAITING} jobs wait already; is a worker running?")
        return bool(stored)

    def claim(self, worker: str) -> Job | None:
        """Take a job, None if there is none to take."""
        keys = self._keys
        claimed = self._run(CLAIM, [keys.queue, keys.running], [keys.prefix, worker, self._lease_s, MAX_TRIES])
        return job_of(claimed[1]) if claimed else None

    def report(self, job: Job, step: str, lines: Sequence[str] = ()) -> str:
        """Keep a job, and store its step and lines of its log; return `go on`, `cancel`, or `lost` if it was taken."""
        keys = self._keys
        answer = self._run(
            REPORT, [keys.job(job.id), keys.log(job.id)], [job.worker or "", self._lease_s, step, LOG_LINES, *lines]
        )
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def finish(self, job: Job, state: JobState, *, result: str = "", error: str = "") -> None:
        """Store how a job ended, or give it back with the state `waiting`; nothing if it is another worker's by now."""
        keys = self._keys
        arguments = [job.id, job.worker or "", state, result, error]
        self._run(FINISH, [keys.job(job.id), keys.running, keys.queue], arguments)

    def cancel(self, job_id: str) -> None:
        """Cancel a job that waits or runs."""
        self._run(CANCEL, [self._keys.job(job_id), self._keys.queue], [job_id])

    def find(self, job_id: str) -> Job | None:
        """Return a job, None if there is none of the id."""
        fields: Any = self.redis.hgetall(self._keys.job(job_id))
        return job_of([part for field in fields.items() for part in field]) if fields else None

    def log(self, job_id: str) -> list[str]:
        """Return the log of a job."""
        lines: Any = self.redis.lrange(self._keys.log(job_id), 0, -1)
        return [line.decode(errors="replace") for line in lines]

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self.redis.eval(script, len(keys), *keys, *arguments)


def _client(url: str) -> "Redis | RedisCluster":
    url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if not kind:
        return Redis.from_url(url, socket_timeout=TIMEOUT_S)
    parts = urlsplit(f"{base}://{rest}")
    login, _, hosts = parts.netloc.rpartition("@")
    nodes = [(host.rpartition(":")[0], int(host.rpartition(":")[2])) for host in hosts.split(",")]
    options: dict[str, Any] = {"ssl": base == "rediss", "socket_timeout": TIMEOUT_S}
    if login:
        account = urlsplit(f"//{login}@host")
        options |= {"username": account.username or None, "password": account.password}
    if kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **options)  # type: ignore[no-untyped-call]
    service, _, database = parts.path.strip("/").partition("/")
    sentinel = Sentinel(nodes, sentinel_kwargs={"socket_timeout": TIMEOUT_S})  # type: ignore[no-untyped-call]
    master: Redis = sentinel.master_for(service, db=int(database or 0), **options)  # type: ignore[no-untyped-call]
    return master
