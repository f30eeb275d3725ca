"""Only finished runs are recorded, and the page shows the records."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onward.training.cli import cli
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.export.export import export
from onward.training.recipe import RECIPES, Recipe
from onward.training.results.page import write_page
from onward.training.results.record import Ladder, LadderStep, RunRecord, read_records
from onward.training.results.recorded_evaluation import evaluate_and_record, evaluate_and_record_baselines
from onward.training.results.summary import SeedStatistics
from onward.training.trainer import train

ANCHORS = """
[dataset]
title = "Walks"
protocol = "Every prefix of a walk is an example."
percent = true
columns = [{ metric = "recall@20", name = "P@20" }, { metric = "mrr@20", name = "MRR@20" }]
published = [
  { name = "Clairvoyant", figures = { "recall@20" = 100.0 }, source = "a crystal ball" },
  { name = "Sampler", figures = { "recall@20" = 100.0, "mrr@20" = 100.0 }, source = "a guess", comparable = false },
]
aims = [
  { name = "modest", figures = { "recall@20" = 60.0, "mrr@20" = 20.0 }, source = "chance" },
  { name = "record", figures = { "recall@20" = 100.0 }, source = "Clairvoyant" },
]
"""


def invoke(*arguments: object) -> str:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False).output


def copy_run(run: Path, out: Path, **changes: Any) -> Path:
    """A copy of a run with changed facts in run.json, without weights."""
    out.mkdir()
    shutil.copy(run / "metrics.jsonl", out)
    facts = json.loads((run / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, **changes}))
    return out


@pytest.fixture(scope="module")
def recorded(run: Path, exported: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of one run and of the baselines."""
    records = tmp_path_factory.mktemp("records")
    evaluate_and_record(exported, dataset.folder, [run], records)
    evaluate_and_record_baselines(dataset.folder, records, hide_seen=False)
    return records


@pytest.fixture
def records(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the records that a test may change."""
    return shutil.copytree(recorded, tmp_path / "records")


@pytest.fixture
def record(records: Path) -> RunRecord:
    return read_records(records)[0].runs[0]


def other_seed(record: RunRecord, records: Path, *, recall: float) -> RunRecord:
    """The record of another seed, with `recall` as its recall@20 as served."""
    other = record.model_copy(update={"seed": record.seed + 1, "served": {**record.served, "recall@20": recall}})
    other.write(records)
    return other


def test_evaluate_records_the_printed_metrics_and_the_run(
    run: Path, exported: Path, dataset: Dataset, tmp_path: Path
) -> None:
    command = ("evaluate", exported, "--data", dataset.folder, "--run", run, "--record", tmp_path, "--json")
    printed = json.loads(invoke(*command))
    (record,) = read_records(tmp_path)[0].runs
    assert (tmp_path / "dataset" / f"{record.recipe}-seed1.json").exists()
    facts = json.loads((run / "run.json").read_text())
    assert record.served == {metric: printed[metric] for metric in record.served}
    assert record.exact == {metric: printed["exact"][metric] for metric in record.exact}
    assert {"recall@20", "mrr@20", "coverage@20"} <= set(record.served)
    assert (record.bundle, record.examples) == (printed["bundle"], printed["examples"])
    assert (record.recipe_text, record.seed, record.commit) == (facts["recipe"], facts["seed"], facts["commit"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [epoch.loss for epoch in record.curve] == [line["loss"] for line in lines]
    assert record.curve[record.epochs_chosen - 1].validation == record.validation
    assert record.seconds == pytest.approx(sum(line["seconds"] for line in lines))
    assert record.encode_p50_ms > 0


@pytest.mark.slow
def test_runs_with_refit_only_and_ensembles_are_recorded_too(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "other"]
    for seed, run in enumerate(runs, start=1):
        train(recipe, dataset.folder, run, device_name="cpu", refit_epochs=1, seed=seed)
    for bundles, of_runs in ((tmp_path / "bundles", runs[:1]), (tmp_path / "joined", runs)):
        export(of_runs, bundles)
        evaluate_and_record(bundles, dataset.folder, of_runs, tmp_path / "records")
    alone, joined = sorted(read_records(tmp_path / "records")[0].runs, key=lambda record: record.dimension)
    assert (alone.recipe, alone.epochs_chosen, alone.epochs_run, alone.validation) == (recipe.name, 1, 0, {})
    assert joined.recipe == f"{recipe.name}-x2"
    assert joined.dimension == 2 * alone.dimension
    assert joined.seconds > alone.seconds


def test_a_bundle_is_not_recorded_with_another_run(run: Path, exported: Path, dataset: Dataset, tmp_path: Path) -> None:
    other = copy_run(run, tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0]["validation"]["recall@20"] = 2.0
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="was not exported from"):
        evaluate_and_record(exported, dataset.folder, [other], tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_an_unfinished_run_is_not_recorded(run: Path, exported: Path, dataset: Dataset, tmp_path: Path) -> None:
    longer = copy_run(run, tmp_path / "run", epochs=9)
    with pytest.raises(InputError, match=r"is not finished; resume it with .* --resume"):
        evaluate_and_record(exported, dataset.folder, [longer], tmp_path / "records")


def test_a_run_on_other_data_is_not_recorded(run: Path, exported: Path, dataset: Dataset, tmp_path: Path) -> None:
    other = copy_run(run, tmp_path / "run", data_fingerprint="0" * 64)
    with pytest.raises(InputError, match="is not the data set that"):
        evaluate_and_record(exported, dataset.folder, [other], tmp_path / "records")


def test_record_needs_run_and_the_test_part(exported: Path, dataset: Dataset) -> None:
    command = ("evaluate", exported, "--data", dataset.folder)
    with pytest.raises(InputError, match="--run and --record go together"):
        invoke(*command, "--run", "run")
    with pytest.raises(InputError, match="--record keeps metrics of the test part"):
        invoke(*command, "--run", "run", "--record", "records", "--part", "validation")
    with pytest.raises(InputError, match="--record keeps metrics of the test part"):
        invoke("baselines", "--data", dataset.folder, "--record", "records", "--part", "validation")


def test_the_page_gives_mean_and_sample_deviation_over_seeds(records: Path, record: RunRecord, tmp_path: Path) -> None:
    recall = record.served["recall@20"]
    other_seed(record, records, recall=recall - 0.02)
    page = tmp_path / "results.md"
    assert invoke("results", records, "--out", page).strip() == f"{page}: 2 runs"
    row = next(line for line in page.read_text().splitlines() if line.startswith(f"| **{record.recipe}**"))
    assert f"**{100 * recall - 1:.2f} ± 1.41**" in row  # two figures 2 apart: 2 / sqrt(2)
    assert row.split("|")[-3].strip() == "2"


def test_the_page_names_the_form_that_a_recipe_gave_its_model(records: Path, record: RunRecord, tmp_path: Path) -> None:
    written = (RECIPES / "re4.toml").read_text()
    without_flows = re.sub(r"(re_\w+ = \{ weight = )[0-9.]+", r"\g<1>0.0", written)
    unknown = 'model = "of yesterday"'
    texts = {"with": written, "without": without_flows, "two": f"{written}\n{without_flows}", "gone": unknown}
    for name, text in texts.items():
        record.model_copy(update={"recipe": name, "recipe_text": text}).write(records)
    write_page(records, tmp_path / "results.md")
    rows = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("| **")]
    sources = {row.split("**")[1]: row.split("|")[-2].strip() for row in rows}
    assert sources["with"] == "here: re-contrast over the session, re-attend to the scores, re-construct"
    assert sources["without"] == "here: backward flows off"
    assert sources["two"] == sources["gone"] == sources[record.recipe] == "here"


def test_the_deviation_is_the_sample_standard_deviation() -> None:
    assert SeedStatistics.of([1.0, 2.0, 3.0]) == SeedStatistics(2.0, 1.0)
    assert SeedStatistics.of([1.0]) == SeedStatistics(1.0, None)


def test_the_page_shows_baselines_and_anchors_and_where_the_recipe_loses(
    records: Path, record: RunRecord, tmp_path: Path
) -> None:
    (records / "anchors.toml").write_text(ANCHORS)
    write_page(records, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "## Walks\n\nEvery prefix of a walk is an example." in text
    assert "| popularity (baseline) |" in text
    assert "| Clairvoyant (published) | 100.00 | – |" in text
    assert "a guess (does not compare)" in text
    recall, gap = 100 * record.served["recall@20"], 100 - 100 * record.served["recall@20"]
    assert f"({recall:.2f}), is {gap:.2f} behind Clairvoyant (100.00)." in text
    assert "Sampler (100.00)." not in text
    assert f"| modest | 60.00 | 20.00 | {record.recipe} | chance |" in text
    assert "| record | 100.00 | – | no recipe | Clairvoyant |" in text


def test_a_refit_is_marked_and_not_compared_where_published_rows_have_none(
    records: Path, record: RunRecord, tmp_path: Path
) -> None:
    assert record.refitted
    without = tuple(epoch for epoch in record.curve if epoch.fit != "refit")
    served = {**record.served, "recall@20": 0.5}
    record.model_copy(update={"recipe": "no-refit", "curve": without, "served": served}).write(records)
    (records / "anchors.toml").write_text(ANCHORS.replace("percent = true", "percent = true\nrefit_compares = false"))
    write_page(records, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    rows = {line.split("**")[1]: line for line in text.splitlines() if line.startswith("| **")}
    assert rows[record.recipe].endswith("here; refit on validation items too (does not compare) |")
    assert rows["no-refit"].endswith("| here |")
    assert "our best, no-refit (50.00), is 50.00 behind Clairvoyant (100.00)." in text
    assert f"our best, {record.recipe}" not in text
    assert "| modest | 60.00 | 20.00 | no recipe | chance |" in text


def test_a_baseline_ahead_of_the_recipe_is_named(records: Path, record: RunRecord, tmp_path: Path) -> None:
    worse = record.model_copy(update={"served": {**record.served, "recall@20": 0.0}})
    worse.write(records)
    write_page(records, tmp_path / "results.md")
    losses = (tmp_path / "results.md").read_text().partition("**Where we lose.**")[2]
    assert losses.startswith(f" Recall@20: our best, {record.recipe} (0.00), is ")
    assert "behind the baseline " in losses.partition("\n")[0]


def test_gains_of_a_ladder_are_over_the_last_kept_step(records: Path, tmp_path: Path) -> None:
    recalls = ((0.50, True), (0.49, False), (0.52, True))
    steps = tuple(
        LadderStep(step=name, change="x", validation={"recall@20": recall}, seconds=60, kept=kept)
        for name, (recall, kept) in zip("abc", recalls, strict=True)
    )
    ladder = Ladder(note="Two epochs, seed 1.", steps=steps)
    (records / "dataset" / "ladder.json").write_text(ladder.model_dump_json())
    write_page(records, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "| a | x | 50.00 | – | 1.0 min | yes |" in text
    assert "| b | x | 49.00 | -1.00 | 1.0 min | no |" in text
    assert "| c | x | 52.00 | +2.00 | 1.0 min | yes |" in text


def test_the_page_links_plots_beside_the_records_and_is_reproducible(records: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "results.md"
    write_page(records, page)
    first = page.read_text()
    for name in ("curves.png", "quality.png"):
        assert f"(../records/dataset/{name})" in first
        assert (records / "dataset" / name).read_bytes().startswith(b"\x89PNG")
    write_page(records, page)
    assert page.read_text() == first


def test_records_of_different_data_are_refused(records: Path, record: RunRecord, tmp_path: Path) -> None:
    record.model_copy(update={"seed": 5, "data_fingerprint": "f" * 64}).write(records)
    with pytest.raises(InputError, match=r"of different data and cannot be compared: .*ffffffffffff \(.* seed 5\)"):
        write_page(records, tmp_path / "results.md")


def test_a_damaged_record_is_an_error_that_names_it(records: Path, tmp_path: Path) -> None:
    (records / "dataset" / "odd.json").write_text('{"data": "dataset"}')
    with pytest.raises(InputError, match=r"odd\.json: data_fingerprint: Field required"):
        write_page(records, tmp_path / "results.md")
    (records / "dataset" / "odd.json").unlink()
    (records / "anchors.toml").write_text("[dataset]\ntitle = 1\n")
    with pytest.raises(InputError, match=r"anchors\.toml: dataset\.title: "):
        write_page(records, tmp_path / "results.md")


def test_published_rows_and_ladders_without_runs_have_sections_too(records: Path, tmp_path: Path) -> None:
    (records / "anchors.toml").write_text(ANCHORS.replace("[dataset]", "[elsewhere]").replace("Walks", "Elsewhere"))
    (records / "thinned").mkdir()
    step = LadderStep(step="base", change="none", validation={"recall@20": 0.5}, seconds=60, kept=True)
    (records / "thinned" / "ladder.json").write_text(Ladder(note="One seed.", steps=(step,)).model_dump_json())
    write_page(records, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    section = text.partition("## Elsewhere")[2].partition("\n## ")[0]
    assert "No run is recorded yet." in section
    assert "| Clairvoyant (published) | 100.00 | – |" in section
    section = text.partition("## thinned")[2].partition("\n## ")[0]
    assert section.count("|  |") == 0
    assert "### What was tried\n\nOne seed." in section


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no records"):
        write_page(tmp_path, tmp_path / "results.md")
