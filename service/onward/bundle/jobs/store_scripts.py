"""The keys of jobs in the store and the scripts that change them, each in one step."""

from importlib.resources import files

LEASE_S = 30
"""A worker that has not reported for so long is lost, and its job is taken again."""
MAX_TRIES = 2
"""A job whose workers were lost so often has failed."""
MAX_WAITING = 100
KEPT_JOBS = 200
"""The newest jobs that are kept, besides those that wait or run."""
LOG_LINES = 300
"""The newest lines of a job's log that are kept."""


class JobKeys:
    """The keys of jobs, in one hash slot of a cluster."""

    def __init__(self, prefix: str = "onward:") -> None:
        self.prefix = f"{prefix}{{jobs}}:"
        self.queue = f"{self.prefix}queue"
        """Ids of jobs that wait, a list; the next one is its last."""
        self.running = f"{self.prefix}running"
        """Ids of jobs that run, a set."""
        self.all = f"{self.prefix}all"
        """Ids of all jobs by the time at which they were made, a sorted set."""

    def job(self, job_id: str) -> str:
        """Return the key of a job's fields, a hash."""
        return f"{self.prefix}job:{job_id}"

    def log(self, job_id: str) -> str:
        """Return the key of a job's log, a list of lines."""
        return f"{self.prefix}log:{job_id}"


def _script(name: str) -> str:
    return files("onward.bundle.jobs").joinpath(name).read_text(encoding="utf-8")


ENQUEUE, CLAIM, REPORT, FINISH, CANCEL, READ = (
    _script(f"{name}.lua") for name in ("enqueue", "claim", "report", "finish", "cancel", "read")
)
