from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from onward.bundle import Bundle
from onward.service.bench.load_generator.open_loop import interleave
from onward.service.bench.load_generator.workload import MAX_LENGTH, NEIGHBOURS, draw_sessions
from tests.bundles import item_ids, make_bundle

ITEMS = item_ids("item-", 60)


def test_items_are_drawn_by_popularity_in_sessions_of_power_law_lengths(tmp_path: Path) -> None:
    popularity = np.array([0, *(1_000 / place for place in range(1, 61))], dtype=np.float32)
    sessions = draw_sessions(make_bundle(tmp_path, ITEMS, popularity=popularity), count=5_000)
    lengths = Counter(map(len, sessions))
    first, clicked = Counter(session[0] for session in sessions), {item for session in sessions for item in session}
    assert max(lengths) <= MAX_LENGTH
    assert 2.3 < lengths[1] / lengths[2] < 3.5  # 2 ** 1.5
    assert 1.7 < first["item-1"] / first["item-2"] < 2.3
    assert clicked == set(ITEMS)


def test_most_clicks_are_on_items_near_the_previous_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, item_ids("item-", 400))
    steps = [step for session in draw_sessions(bundle, count=1_000) for step in pairwise(session)]
    near = sum(after in _nearest(bundle, before) for before, after in steps)
    assert 0.75 < near / len(steps) < 0.9  # 0.8 by design, and 0.05 by chance


def _nearest(bundle: Bundle, item: str) -> set[str]:
    row = bundle.catalog.row(item)
    rows = bundle.index.search(bundle.index.vectors(np.array([row])), NEIGHBOURS).rows
    return {bundle.catalog.item_id(row) for row in rows.tolist()}


def test_concurrent_sessions_are_interleaved_and_each_keeps_its_order() -> None:
    sessions = (("a", "b", "c"), ("d",), ("e", "f"))
    clicks = list(islice(interleave(sessions, 5, seed=1), 300))
    of_session: dict[int, list[str]] = {}
    for number, item in clicks:
        of_session.setdefault(number, []).append(item)
    assert all(tuple(items) == sessions[number % 3][: len(items)] for number, items in of_session.items())
    assert sum(before[0] != after[0] for before, after in pairwise(clicks)) > 100
