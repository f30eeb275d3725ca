"""The figures of a bundle's dataset are returned as they lie beside it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from onward.bundle.data_report import Bar, DataReport, Part, data_file
from tests.service.process import wait_until
from tests.service.shop import get, opened, problem, publish_shop, send

REPORT = DataReport(
    prepared=datetime(2026, 11, 22, tzinfo=UTC),
    fingerprint="0f1e",
    rows=("kept: 3 of 3 events",),
    parts={"train": Part(events=3, sessions=1, items=2, examples=2)},
    session_lengths=(Bar(label="3", value=1),),
    events_by_day=(),
    popularity=(Bar(label="5%", value=1.0),),
    repeated=0.25,
    same_as_before=0.0,
    unknown_in_test=None,
    drift=None,
)


def test_figures_are_returned_with_the_share_of_recent_events_that_the_bundle_knows(tmp_path: Path) -> None:
    digest = publish_shop(tmp_path)
    with opened(tmp_path) as client:
        path = f"/v1/bundles/{digest[:12]}/data"
        assert problem(client.get(path)) == (404, "bundle_not_found")
        REPORT.write(tmp_path, digest)
        shown = get(client, path)
        expected = REPORT.model_dump(mode="json", exclude={"format_version"}, exclude_none=True)
        assert shown == expected | {"bundle": digest, "prepared": shown["prepared"]}
        for item_id in ("item-1", "item-2", "item-3", "new"):
            send(client, "visitor", item_id)
        wait_until(lambda: get(client, path).get("known_now") == pytest.approx(0.75))
        data_file(tmp_path, digest).write_text("{}")
        assert problem(client.get(path)) == (409, "release_refused")


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    REPORT.write(tmp_path, "d")
    assert DataReport.read(tmp_path, "d") == REPORT
    assert [file.name for file in tmp_path.iterdir()] == ["d.data.json"]
    assert DataReport.read(tmp_path, "e") is None
