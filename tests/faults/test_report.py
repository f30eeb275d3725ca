"""The reliability page."""

from tests.faults.report import page
from tests.faults.row import Row

SOAK = {
    "minutes": 30.0,
    "rate_per_s": 300.0,
    "swaps": 90,
    "store_restarts": 14,
    "catalog_changes": 9_000,
    "killed_workers": 1,
    "requests": 540_000,
    "degraded": 10,
    "refused": 11,
    "failed": 2,
    "crossed": 0,
    "rss_mib": [100.0, 101.0],
    "descriptors": [50.0, 51.0],
    "threads": [8.0, 8.0],
    "p99_ms": [3.0, 3.1],
    "note": "A quiet machine.",
}


def test_every_row_stands_in_its_chapter_and_a_broken_promise_is_marked() -> None:
    rows = [
        Row("Stores", "the store hangs", "answers go on", requests=1_200, degraded=3, worst_ms=113.8, recovered_s=0.2),
        Row("Load", "much", "none waits", in_time=False),
        Row("Load", "too much", "some is refused", kept=False, observed="nothing was"),
    ]
    text = page(rows, "a machine", SOAK)
    assert "| **The store hangs.** Answers go on. | 1,200 | 3 | - | - | - | - | 113.8 ms | 0.2 s |" in text
    assert "**Too much.** Some is refused. *Nothing was.* **Not kept.**" in text
    assert "**Much.** None waits. **Slower than promised.**" in text
    assert text.index("## Load") < text.index("**Too much.**") < text.index("## Stores") < text.index("**The store")
    assert "540,000 requests 10 were degraded" in text
    assert "soak" not in page(rows, "a machine", None)
