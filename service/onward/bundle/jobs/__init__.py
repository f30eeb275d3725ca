"""Jobs: what the service asks a worker of training to do, and how both keep it in the store.

Neither needs the other: the fields, the keys and the server-side scripts are here, the connections are theirs.
"""

from onward.bundle.jobs.job import FINISHED, Job, JobKind, JobState, job_of, new_job, stored_fields
from onward.bundle.jobs.store_scripts import (
    CANCEL,
    CLAIM,
    ENQUEUE,
    FINISH,
    KEPT_JOBS,
    LEASE_S,
    LOG_LINES,
    MAX_TRIES,
    MAX_WAITING,
    READ,
    REPORT,
    JobKeys,
)

__all__ = [
    "CANCEL",
    "CLAIM",
    "ENQUEUE",
    "FINISH",
    "FINISHED",
    "KEPT_JOBS",
    "LEASE_S",
    "LOG_LINES",
    "MAX_TRIES",
    "MAX_WAITING",
    "READ",
    "REPORT",
    "Job",
    "JobKeys",
    "JobKind",
    "JobState",
    "job_of",
    "new_job",
    "stored_fields",
]
