import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onward.training.errors import InputError
from tests.benchmarks.report.__main__ import cli
from tests.benchmarks.report.aims import AIMS, aims_table
from tests.benchmarks.report.page import write_page
from tests.benchmarks.report.records import read_records

JsonObject = dict[str, Any]

MACHINE = {
    "processor": "Made up",
    "cores": 2,
    "memory_gib": 8.0,
    "python": "3.11.1",
    "commit": "abc+",
    "numpy": "2.4.6",
}
INDEX = {"description": "IVF64,SQfp16", "nprobe": 8}
LOAD: JsonObject = {
    "rate_per_s": None,
    "achieved_per_s": 900.0,
    "p50_ms": 1.0,
    "p90_ms": 6.9,
    "p99_ms": 24.9,
    "p999_ms": 40.0,
    "cpu_us_per_request": 300.0,
    "store_cpu_us_per_request": 20.0,
    "rss_mib": 200.0,
    "pss_mib": 150.0,
    "errors": {},
    "limited_by": [],
}
TIMED = {"p50_us": 10.0, "p99_us": 20.0}


def serving(items: int = 1_000_000, workers: int = 1) -> JsonObject:
    loads = {"open 500": {**LOAD, "rate_per_s": 500.0}, "open 1000": {**LOAD, "rate_per_s": 1000.0}, "closed 16": LOAD}
    return {
        **MACHINE,
        "benchmark": "serving",
        "workers": workers,
        "arrivals": "poisson",
        "filter": {"attribute": "category", "equals": "it's"},
        "seconds": 10.0,
        "rounds": 3,
        "catalogs": [{"model": "srgnn", "items": items, "index": INDEX, "recall_at_20": 0.98, "loads": loads}],
    }


def peers() -> JsonObject:
    figures = {"requests_per_s": 100.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us_per_request": 50.0}
    connections = {count: {**figures, "errors": {}, "generator_limited": False} for count in ("1", "16")}
    times = {"requests_per_s": 7.0, "cpu_us_per_request": 7.0}
    better = {ours: {"1": dict(times), "16": dict(times)} for ours in ("Onward", "Onward .95")}
    servers: JsonObject = {
        "Onward": {"recall_at_20": 0.99, "connections": connections},
        "Onward .95": {"recall_at_20": 0.95, "connections": connections},
    }
    for name in ("plain FastAPI", "mosec", "mosec, batches"):
        servers[name] = {
            "recall_at_20": 0.95,
            "connections": connections,
            "onward_is_times_better": better,
            "settings": "One worker.",
            "versions": {"mosec": "0.9"} if "mosec" in name else {},
        }
    return {
        **MACHINE,
        "benchmark": "peers",
        "pinned": False,
        "rounds": 5,
        "seconds": 4.0,
        "model": "srgnn",
        "items": 43_097,
        "sessions": "drawn by popularity",
        "index": {"Onward": INDEX, "Onward .95": INDEX},
        "servers": servers,
        "left_out": {"BentoML": "it could not be installed"},
    }


def stages() -> JsonObject:
    request = {"cpu_us_per_request": 300.0, "floors_us": {"http": 120.0, "encode": 80.0}, "sum_of_floors_us": 200.0}
    return {
        **MACHINE,
        "benchmark": "stages",
        "model": "srgnn",
        "engine": "kernel",
        "items": 43_097,
        "index": INDEX,
        "connections": {count: {**request, "ratio": 1.5, "ratios": [1.4, 1.5, 1.6]} for count in ("1", "16")},
        "telemetry": {"us_per_request": 15.0, "share_of_request": 0.05},
    }


def parts() -> JsonObject:
    costs = {
        "search": {"cpu_us": 40.0, "share": 0.16, "middle_half_us": [35.0, 42.5]},
        "encoding": {"cpu_us": 10.0, "share": 0.04, "middle_half_us": [-1.0, 19.0]},
    }
    context = {"items": 43_097, "connections": 16, "rounds": 3, "cpu_us_per_request": 250.0}
    return {**MACHINE, "benchmark": "parts", **context, "parts": costs}


def catalogs() -> JsonObject:
    search = {**TIMED, "visits": 8, "recall_at_20": 0.99}
    of_size: JsonObject = {
        "build": {"structure": {}, "seconds": {"building": 2.0}},
        "index": INDEX,
        "files_mb": {"index.faiss": 3.0},
        "first_answer_s": 3.0,
        "load_s": 0.1,
        "flat": TIMED,
        "targets": {"0.95": {**search, "share_of_flat": 0.01}, "0.99": {**search, "share_of_flat": 0.5}},
        "filters": {"0.1": {**TIMED, "eligible": 5, "first_use_ms": 1.0, "strategy": "scan", "recall_at_20": 1.0}},
        "retrieve": {"without_filter": TIMED},
        "workers": [{"rss_mb": 10, "pss_mb": 6, "private_mb": 2}],
    }
    large = changed(of_size, ["targets", "0.99", "share_of_flat"], 1 / 80)
    return {**MACHINE, "benchmark": "catalogs", "catalogs": {"43097": of_size, "1000000": large}}


def engines() -> JsonObject:
    times = {"torch, graph in Python": 1.0, "onnx": 3.0, "onnx, table": 6.0, "kernel, table": 25.0}
    figures = {name: {"cpu_us": 1000 / fast, "times_as_fast": fast, "difference": 1e-7} for name, fast in times.items()}
    parts = {"kernel_items": 20, "kernel_parts_us": {"lists": 3.0, "the rest": 37.0}}
    return {**MACHINE, "benchmark": "engines", "recipe": "srgnn", "by_length": {"10": figures, "20": figures}, **parts}


def filters() -> JsonObject:
    way = {"p50_us": 5.0, "recall_at_20": 1.0}
    chosen = {**way, "strategy": "scan", "visits": None}
    shares = {"0.5": {"eligible": 50, "chosen": chosen, "scan": way}}
    index = {"index": INDEX, "without": way, "shares": shares}
    return {**MACHINE, "benchmark": "filters", "items": 100, "dimension": 16, **index}


def encoders() -> JsonObject:
    figures = {"srgnn (somewhere/bundles)": {"items": 100, **TIMED}}
    return {**MACHINE, "benchmark": "encoders", "length": 20, "encoders": figures}


def redis_calls() -> JsonObject:
    ways = {"a script": {"1 in flight": {"client_us": 10.0, "server_us": 5.0, "calls_per_s": 1000}}}
    return {**MACHINE, "benchmark": "redis_calls", "calls": 100, "rounds": 1, "tcp": ways, "unix socket": ways}


def everything() -> dict[str, JsonObject]:
    return {
        "peers": peers(),
        "1m": serving(),
        "10m": serving(10_000_000),
        "two": serving(workers=2),
        "stages": stages(),
        "parts": parts(),
        "catalogs": catalogs(),
        "engines": engines(),
        "filters": filters(),
        "encoders": encoders(),
        "redis": redis_calls(),
    }


def page_of(folder: Path, records: dict[str, JsonObject]) -> str:
    records_folder, page = folder / "performance", folder / "performance.md"
    records_folder.mkdir(exist_ok=True)
    for name, record in records.items():
        (records_folder / f"{name}.json").write_text(json.dumps(record) + "\n")
    assert write_page(records_folder, page) == len(records)
    return page.read_text()


def verdicts(folder: Path, records: dict[str, JsonObject], text: str) -> list[str]:
    """Return the first word of the last cell of each aim whose row contains a text."""
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    lines = aims_table(read_records(folder)).splitlines()
    return [line.split(" | ")[-1].split(" ")[0].strip("*:") for line in lines if text in line]


def changed(record: JsonObject, keys: list[Any], value: object) -> JsonObject:
    """Return a copy with one value replaced."""
    record = json.loads(json.dumps(record))
    place: Any = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return record


LOAD_OF_1000 = ["catalogs", 0, "loads", "open 1000"]
BETTER = "onward_is_times_better"
FAST = ["Onward .95", "16", "requests_per_s"]

LIMITS: list[tuple[str, Callable[[], JsonObject], list[Any], object, object]] = [
    ("12 × plain FastAPI", peers, ["servers", "plain FastAPI", BETTER, *FAST], 12.0, 11.99),
    ("7 × plain FastAPI", peers, ["servers", "plain FastAPI", BETTER, "Onward", "16", "requests_per_s"], 7.0, 6.99),
    ("7 × plain FastAPI", peers, ["servers", "Onward", "recall_at_20"], 0.99, 0.9899),
    ("7 × plain FastAPI", peers, ["servers", "Onward", "connections", "16", "errors"], {}, {"status 503": 1}),
    ("2 × mosec", peers, ["servers", "mosec", BETTER, *FAST], 2.0, 1.99),
    ("2 × mosec", peers, ["servers", "mosec, batches", BETTER, *FAST], 2.0, 1.99),
    ("2 × mosec", peers, ["servers", "Onward .95", "recall_at_20"], 0.95, 0.9499),
    ("p99 < 25 ms", serving, [*LOAD_OF_1000, "p90_ms"], 6.99, 7.0),
    ("p99 < 25 ms", serving, [*LOAD_OF_1000, "p99_ms"], 24.99, 25.0),
    ("p99 < 25 ms", serving, [*LOAD_OF_1000, "errors"], {}, {"no answer in time": 1}),
    ("p99 < 25 ms", serving, ["catalogs", 0, "recall_at_20"], 0.98, 0.9799),
    ("p90 < 50 ms", lambda: serving(10_000_000), [*LOAD_OF_1000, "p90_ms"], 49.9, 50.0),
    ("by the kernel", engines, ["by_length", "20", "kernel, table", "times_as_fast"], 25.0, 24.9),
    ("by the ONNX", engines, ["by_length", "20", "onnx, table", "times_as_fast"], 6.0, 5.9),
    ("search of 43k", catalogs, ["catalogs", "43097", "targets", "0.99", "share_of_flat"], 0.5, 0.501),
    ("search of 1M", catalogs, ["catalogs", "1000000", "targets", "0.99", "share_of_flat"], 0.0125, 0.0126),
    ("search of 1M", catalogs, ["catalogs", "1000000", "targets", "0.99", "recall_at_20"], 0.99, 0.985),
    ("first answer", catalogs, ["catalogs", "1000000", "first_answer_s"], 3.0, 3.01),
    ("logging", stages, ["telemetry", "share_of_request"], 0.05, 0.051),
    ("sum of floors", stages, ["connections", "16", "ratio"], 1.5, 1.51),
]


@pytest.mark.parametrize(("aim", "make_record", "keys", "met", "missed"), LIMITS)
def test_an_aim_is_met_up_to_its_limit_and_missed_beyond(
    tmp_path: Path, aim: str, make_record: Callable[[], JsonObject], keys: list[Any], met: object, missed: object
) -> None:
    assert verdicts(tmp_path, {"one": changed(make_record(), keys, met)}, aim) == ["met"]
    assert verdicts(tmp_path, {"one": changed(make_record(), keys, missed)}, aim) == ["missed"]


@pytest.mark.parametrize(("of_two", "verdict"), [(901.0, "met"), (900.0, "missed")])
def test_two_workers_must_give_more_than_one(tmp_path: Path, of_two: float, verdict: str) -> None:
    two = changed(serving(workers=2), ["catalogs", 0, "loads", "closed 16", "achieved_per_s"], of_two)
    assert verdicts(tmp_path, {"one": serving(), "two": two}, "two workers") == [verdict]


def test_workers_of_other_catalogs_are_not_compared(tmp_path: Path) -> None:
    records = {"one": serving(), "two": serving(items=43_097, workers=2)}
    assert verdicts(tmp_path, records, "two workers") == ["not"]


def test_every_aim_without_a_record_is_not_measured(tmp_path: Path) -> None:
    page = page_of(tmp_path, {})
    assert page.count("| not measured |") == len(AIMS)


def test_a_peer_without_figures_is_not_measured(tmp_path: Path) -> None:
    assert verdicts(tmp_path, {"one": peers()}, "× BentoML") == ["not"]


@pytest.mark.parametrize(("silent", "verdict"), [("mosec", "met"), ("Onward .95", "missed")])
def test_a_peer_that_never_answers_is_ignored_but_onward_misses_the_aim_if_it_never_answers(
    tmp_path: Path, silent: str, verdict: str
) -> None:
    record = changed(peers(), ["servers", silent, "connections", "16", "requests_per_s"], 0.0)
    none = {"requests_per_s": None, "cpu_us_per_request": None}
    record = changed(record, ["servers", "mosec", BETTER, "Onward .95", "16"], none)
    assert verdicts(tmp_path, {"one": record}, "2 × mosec") == [verdict]
    page_of(tmp_path, {"one": record})


def test_records_of_a_machine_with_more_cores_are_ignored(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"one": {**stages(), "cores": 64}})
    assert page.count("| not measured |") == len(AIMS)


def test_an_aim_with_a_filter_ignores_records_without_one(tmp_path: Path) -> None:
    assert verdicts(tmp_path, {"one": {**serving(), "filter": None}}, "p99 < 25 ms") == ["not"]


def test_a_missed_aim_links_to_a_section_of_the_page(tmp_path: Path) -> None:
    records = everything()
    records["stages"] = changed(stages(), ["telemetry", "share_of_request"], 0.2)
    page = page_of(tmp_path, records)
    headings = {"#" + line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    links = re.findall(r"\*\*missed\*\*: see \[[^]]+\]\(([^)]+)\)", page)
    assert links
    assert headings.issuperset(links)


def test_the_page_shows_every_plot(tmp_path: Path) -> None:
    page = page_of(tmp_path, everything())
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", page))
    assert shown == {f"performance/{path.name}" for path in (tmp_path / "performance").glob("*.png")}
    assert len(shown) == 6


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    assert page_of(tmp_path, everything()) == page_of(tmp_path, everything())


def test_the_page_names_the_command_and_no_folder_of_a_bundle(tmp_path: Path) -> None:
    page = page_of(tmp_path, everything())
    assert (
        "python -m tests.benchmarks.serving BUNDLES --rates 500,1000 --seconds 10 --rounds 3 --workers 2 --filter "
        """'{"attribute": "category", "equals": "it'"'"'s"}'"""
    ) in page
    assert "somewhere" not in page


def test_each_machine_is_listed_with_its_records(tmp_path: Path) -> None:
    page = page_of(
        tmp_path, {"one": stages(), "two": {**stages(), "numpy": "2.5.0"}, "three": {**stages(), "cores": 4}}
    )
    assert "| Made up | 2 | 8 GiB | 3.11.1 | abc+ | numpy 2.4.6 / 2.5.0 | one, two |" in page
    assert "| Made up | 4 | 8 GiB | 3.11.1 | abc+ | numpy 2.4.6 | three |" in page


def test_a_ramp_is_shown_by_interval(tmp_path: Path) -> None:
    parts = [{"rate_per_s": rate, "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": None} for rate in (150.0, 900.0)]
    loads = {"open 100-1000": {**LOAD, "rate_per_s": 550.0, "parts": parts}}
    record = changed({**serving(), "arrivals": "ramp"}, ["catalogs", 0, "loads"], loads)
    page = page_of(tmp_path, {"one": record})
    assert "--rates 100,1000 " in page
    assert "| 900 | 1.00 | 2.00 | – |" in page


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not one line of JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(MACHINE), "benchmark"),
        (json.dumps({**MACHINE, "benchmark": "weather"}), "weather"),
        (json.dumps(changed(stages(), ["connections", "16", "ratio"], "fast")), "connections.16.ratio"),
        (json.dumps(changed(engines(), ["by_length", "10"], {})), "figures are missing"),
        (json.dumps(changed(peers(), ["servers", "Onward"], None)), "servers.Onward"),
        (json.dumps(changed(peers(), ["servers", "mosec", BETTER], {})), "figures are missing"),
        (json.dumps(changed(serving(), ["catalogs"], [])), "figures are missing"),
    ],
)
def test_an_invalid_record_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(InputError, match=reason) as refused:
        write_page(tmp_path, tmp_path / "page.md")
    assert "broken.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_writes_the_page_or_reports_the_reason(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    arguments = [str(tmp_path / "records"), "--out", str(tmp_path / "new" / "page.md")]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, (tmp_path / "new" / "page.md").exists()) == (0, True)
    (tmp_path / "records" / "one.json").write_text("{")
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
