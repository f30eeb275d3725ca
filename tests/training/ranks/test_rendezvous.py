"""Ranks that are started anew meet at a place of their own, whatever earlier ones have left in the store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]  # documented

from onward.training.ranks.rendezvous import fresh_store

SIZE = 3
TIMEOUT = timedelta(seconds=30)


def met(store: HashStore) -> list[Store]:
    with ThreadPoolExecutor(SIZE) as ranks:
        return list(ranks.map(lambda rank: fresh_store(store, rank, SIZE, TIMEOUT), range(SIZE)))


def test_ranks_of_one_start_share_a_store_that_those_of_an_earlier_start_did_not_write_to() -> None:
    store = HashStore()
    for start in range(3):
        stores = met(store)
        assert not any(each.check(["address"]) for each in stores)
        stores[0].set("address", str(start))
        assert [each.get("address") for each in stores] == [str(start).encode()] * SIZE


def test_what_a_lost_rank_has_asked_is_no_answer_to_the_next_one() -> None:
    store = HashStore()
    store.set("onward/asks/1", "a rank that was killed")
    met(store)[0].set("address", "here")
    assert not met(store)[1].check(["address"])


def test_rank_0_waits_no_longer_than_it_should() -> None:
    with pytest.raises(RuntimeError, match="not all ranks have started"):
        fresh_store(HashStore(), 0, SIZE, timedelta(seconds=0.1))
