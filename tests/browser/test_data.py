"""The page of what a bundle was trained on."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from onward.bundle import current_digest
from onward.bundle.data_report import Bar, DataReport, Part
from tests.browser.browsing import visited

pytestmark = pytest.mark.browser


def test_it_shows_where_rows_went_and_how_sessions_are(browser: Browser, url: str, shop_bundles: Path) -> None:
    report = DataReport.model_validate(
        {
            "prepared": "2026-11-22T09:30:00Z",
            "fingerprint": "0f1e2d3c4b5a",
            "rows": ("read: 70 rows", "kept: 60 of 70 events"),
            "parts": {"train": Part(events=60, sessions=20, items=9, examples=40)},
            "session_lengths": [Bar(label=str(length), value=20 - length) for length in range(1, 20)],
            "events_by_day": [Bar(label=f"2026-11-{day:02}", value=day) for day in range(1, 29)],
            "popularity": [Bar(label=f"{share}%", value=0.05) for share in range(5, 101, 5)],
            "repeated": 0.25,
            "same_as_before": 0.1,
            "unknown_in_test": None,
            "drift": None,
        }
    )
    report.write(shop_bundles, str(current_digest(shop_bundles)))
    with visited(browser, url) as visit:
        page = visit.open("data")
        expect(page.locator(".figures")).to_contain_text("25.0")
        expect(page.get_by_role("region", name="Where every row went")).to_contain_text("kept: 60 of 70 events")
        expect(page.get_by_role("img", name="Chart: Events by day")).to_be_visible()
