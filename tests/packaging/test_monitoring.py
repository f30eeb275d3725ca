"""The dashboard and the alerts are valid, and ask for metrics and labels that the service has."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, Metric

from onward.service import telemetry

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "onward.json").read_text())
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$route": ".*"}
OF_PROMETHEUS = {"up"}
LABELS_OF_PROMETHEUS = {"instance", "job"}


def series() -> dict[str, set[str]]:
    """Return the names of all series of the service, with their labels."""
    found = {}
    for metric, names in REGISTRY._collector_to_names.items():  # the only way to metrics without a sample
        labels = set(getattr(metric, "_labelnames", ()))
        for name in names:
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found | {family.name: set(family.samples[0].labels) for family in families_of_a_serving_bundle()}


def families_of_a_serving_bundle() -> list[Metric]:
    now = datetime.now(UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "_serving", {})
        telemetry.bundle_serves("0" * 64, "srgnn", now, now, now)
        return list(telemetry._ServingBundle().collect())


SERIES = series()


def panel_expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield expression


EXPRESSIONS = [rule["expr"] for rule in ALERTS] + list(panel_expressions())


def selectors(node: Any) -> Iterator[Any]:
    """Return the selectors of series in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        part = getattr(node, name, None)
        if part is not None and not isinstance(part, str | int | float):
            yield from selectors(part)
    for part in getattr(node, "args", ()) or ():
        yield from selectors(part)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_series_and_labels_that_exist(expression: str) -> None:
    found = list(selectors(promql_parser.parse(expression)))
    assert found
    of_all: set[str] = set()
    for selector in found:
        if selector.name in OF_PROMETHEUS:
            continue
        assert selector.name in SERIES, selector.name
        of_all |= SERIES[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in SERIES[selector.name] | LABELS_OF_PROMETHEUS, (selector.name, matcher.name)
    for grouping in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouping.split(",")} <= of_all | LABELS_OF_PROMETHEUS


def test_the_check_finds_all_series_of_an_expression() -> None:
    expression = 'sum by (le) (rate(a_bucket[5m])) / on (le) histogram_quantile(0.9, b) > scalar(c{d="e"})'
    assert {selector.name for selector in selectors(promql_parser.parse(expression))} == {"a_bucket", "b", "c"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_look(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
    assert labels <= kept | (LABELS_OF_PROMETHEUS if rule["expr"].startswith("up") else set())
    assert rule["annotations"]["description"].endswith(".")


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
