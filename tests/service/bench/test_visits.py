from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from service.bench.open_loop import interleaved
from service.bench.visits import LONGEST, draw_sessions
from tests.bundles import item_ids, make_bundle

ITEMS = item_ids("item-", 60)


def test_visitors_click_items_as_often_as_the_log_did_in_sessions_of_power_law_lengths(tmp_path: Path) -> None:
    popularity = np.array([0, *(1_000 / place for place in range(1, 61))], dtype=np.float32)
    sessions = draw_sessions(make_bundle(tmp_path, ITEMS, popularity=popularity), count=5_000)
    lengths = Counter(map(len, sessions))
    clicks = Counter(item for session in sessions for item in session)
    assert max(lengths) <= LONGEST
    assert 2.3 < lengths[1] / lengths[2] < 3.5  # 2 ** 1.5
    assert 1.7 < clicks["item-1"] / clicks["item-2"] < 2.3
    assert clicks.keys() == set(ITEMS)


def test_many_visitors_are_interleaved_and_each_clicks_in_its_order() -> None:
    sessions = (("a", "b", "c"), ("d",), ("e", "f"))
    clicks = list(islice(interleaved(sessions, 5, seed=1), 300))
    of_session: dict[int, list[str]] = {}
    for number, item in clicks:
        of_session.setdefault(number, []).append(item)
    assert all(tuple(items) == sessions[number % 3][: len(items)] for number, items in of_session.items())
    assert sum(before[0] != after[0] for before, after in pairwise(clicks)) > 100
