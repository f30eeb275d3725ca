"""A staged bundle may go live if its report says that it passed, beside the bundle that is live now."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from onward.bundle import BundleError, Comparison, GateReport, gate_fault, report_file
from tests.bundles import item_ids, publish_bundle

IDS = item_ids("a", 20)


def write_report(bundles: Path, digest: str, live: str | None, *, passed: bool) -> None:
    comparison = Comparison(
        reference="vmis-knn", metric="recall@20", difference=-0.05, low=-0.06, high=-0.04, passed=passed
    )
    report = GateReport(
        created=datetime.now(UTC),
        bundle=digest,
        live=live,
        data_fingerprint="none",
        part="test",
        sessions=100,
        examples=200,
        figures={},
        comparisons=(comparison,),
    )
    report_file(bundles, digest).write_text(report.model_dump_json())


def test_a_bundle_without_a_report_has_not_been_through_the_gate(tmp_path: Path) -> None:
    assert gate_fault(tmp_path, publish_bundle(tmp_path, IDS)) == "it has not been through the gate"


def test_a_bundle_that_passed_may_go_live_while_the_same_bundle_is_live(tmp_path: Path) -> None:
    live = publish_bundle(tmp_path, IDS)
    digest = publish_bundle(tmp_path, IDS, seed=1, make_live=False)
    write_report(tmp_path, digest, live, passed=True)
    assert gate_fault(tmp_path, digest) is None
    publish_bundle(tmp_path, IDS, seed=2)
    assert gate_fault(tmp_path, digest) == "another bundle is live than it was compared with"


def test_a_bundle_that_did_not_pass_is_below_something(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS, make_live=False)
    write_report(tmp_path, digest, None, passed=False)
    assert gate_fault(tmp_path, digest) == "recall@20 is 0.0500 below vmis-knn"


def test_a_damaged_report_is_an_error_that_names_it(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS, make_live=False)
    report_file(tmp_path, digest).write_text("{}")
    with pytest.raises(BundleError, match=rf"{digest}\.gate\.json: "):
        gate_fault(tmp_path, digest)
