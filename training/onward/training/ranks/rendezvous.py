"""Agree on a place in the launcher's store that no earlier start of the ranks has written to.

torchrun starts ranks anew after one has ended, and may keep its store. There a rank could read where an earlier rank 0
listened, and fail to connect; the numbers of restarts that launchers count differ between machines.
"""

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # documented

POLL_S = 0.02


def fresh_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """Return the part of a store that these ranks alone use. Raises RuntimeError if one does not come in time.

    Each other rank asks rank 0 by a name that it has just made up, and rank 0 answers all names that it finds, old ones
    too, until every rank has taken its answer.
    """
    start = _announce(store, size, timeout) if rank == 0 else _ask(store, rank)
    return PrefixStore(f"onward/start/{start}", store)


def _announce(store: Store, size: int, timeout: timedelta) -> str:
    start, deadline_s = uuid4().hex, time.monotonic() + timeout.total_seconds()
    while store.add(f"onward/taken/{start}", 0) < size - 1:
        if time.monotonic() > deadline_s:
            raise RuntimeError("not all ranks have started")
        for asks in (f"onward/asks/{rank}" for rank in range(1, size)):
            if store.check([asks]):
                store.set(f"onward/answer/{store.get(asks).decode()}", start)
        time.sleep(POLL_S)
    return start


def _ask(store: Store, rank: int) -> str:
    name = uuid4().hex
    store.set(f"onward/asks/{rank}", name)
    start = str(store.get(f"onward/answer/{name}").decode())
    store.add(f"onward/taken/{start}", 1)
    return start
