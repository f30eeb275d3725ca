"""Write the page of results, Markdown with plots, from records alone."""

from collections.abc import Iterable, Sequence
from os.path import relpath
from pathlib import Path
from shlex import quote

from onward.training.results.anchors import Anchor, DataSetProfile, default_profile, read_anchors
from onward.training.results.plots import CURVES, QUALITY, draw_curves, draw_quality
from onward.training.results.record import DataRecords, Ladder, RunRecord, read_records
from onward.training.results.summary import Comparison, RecipeSummary, SeedStatistics, comparisons

ABSENT = "–"


def write_page(records: Path, page: Path) -> int:
    """Write the page, and its plots beside the records; return the number of runs on it.

    Raises InputError if there are no records, or one is damaged.
    """
    data_sets = read_records(records)
    anchors = read_anchors(records)
    recorded = {data_set.name for data_set in data_sets}
    data_sets += [
        DataRecords(name=name, runs=(), baselines=None, ladder=None)
        for name, profile in anchors.items()
        if profile.published and name not in recorded
    ]
    data_sets = sorted(data_sets, key=lambda data_set: _place(data_set.name, list(anchors)))
    sections = [
        _section(data_records, anchors.get(data_records.name) or default_profile(data_records.name), records, page)
        for data_records in data_sets
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join([_head(records, page), *sections]) + "\n", encoding="utf-8")
    return sum(len(data_records.runs) for data_records in data_sets)


def _place(name: str, listed: list[str]) -> tuple[int, str]:
    """Return the sort key of a data set: the order of the anchors, then the name."""
    return (listed.index(name) if name in listed else len(listed), name)


def _head(records: Path, page: Path) -> str:
    return f"""# Results

Made by `onward-training results {quote(str(records))} --out {quote(str(page))}` from the records there; do not edit.

Epochs and hyper-parameters are chosen on validation sessions alone. The test part is used once, for a finished run,
through its bundle: *as served*, by the index that answers requests, and *exact*, by comparing with every item. Ties
count against the model. If several seeds were run, a figure is mean ± sample standard deviation."""


def _section(records: DataRecords, data_set: DataSetProfile, folder: Path, page: Path) -> str:
    parts = [f"## {data_set.title}", data_set.protocol]
    if not records.runs and data_set.published:
        parts.append("No run is recorded yet.")
    if records.runs or records.baselines or data_set.published:
        parts += [_figures(records, data_set), _against_others(records, data_set)]
    if data_set.aims and records.runs:
        parts += ["### Aims", _aims(records, data_set)]
    if any(run.sampled for run in records.runs):
        parts += ["### Among sampled items", _sampled(records.runs)]
    if records.runs:
        parts += ["### Runs", _runs(records, data_set), _pictures(records, data_set, folder, page)]
    if records.ladder:
        parts += ["### What was tried", records.ladder.note, _ladder(records.ladder, data_set)]
    return "\n\n".join(part for part in parts if part)


def _figures(records: DataRecords, data_set: DataSetProfile) -> str:
    """Return the table of baselines, published rows and recipes with their figures."""
    columns = data_set.columns
    served, exact = [column.name for column in columns], [f"{column.name}, exact" for column in columns]
    rows = [*_baseline_rows(records, data_set), *(_anchor_row(row, data_set) for row in data_set.published)]
    rows += [_recipe_row(summary, data_set) for summary in RecipeSummary.all_of(records.runs)]
    return _table(["", *served, *exact, "seeds", "source"], rows)


def _baseline_rows(records: DataRecords, data_set: DataSetProfile) -> Iterable[list[str]]:
    if records.baselines is None:
        return
    kind = "baseline, seen items hidden" if records.baselines.hide_seen else "baseline"
    for name, metrics in records.baselines.metrics.items():
        figures = [_text(metrics.get(column.metric), data_set) for column in data_set.columns]
        yield [f"{name} ({kind})", *figures, *[""] * len(figures), "", "here"]


def _anchor_row(row: Anchor, data_set: DataSetProfile) -> list[str]:
    figures = [data_set.text(row.figures[c.metric]) if c.metric in row.figures else ABSENT for c in data_set.columns]
    source = row.source if row.comparable else f"{row.source} (does not compare)"
    return [f"{row.name} (published)", *figures, *[""] * len(figures), "", source]


def _recipe_row(summary: RecipeSummary, data_set: DataSetProfile) -> list[str]:
    served = [_mean_and_deviation(summary.served(column.metric), data_set) for column in data_set.columns]
    exact = [_mean_and_deviation(summary.exact(column.metric), data_set) for column in data_set.columns]
    source = f"here: {summary.form}" if summary.form else "here"
    source = source if summary.compares(data_set) else f"{source}; refit on validation items too (does not compare)"
    return [f"**{summary.recipe}**", *(f"**{text}**" for text in served), *exact, str(len(summary.runs)), source]


def _against_others(records: DataRecords, data_set: DataSetProfile) -> str:
    """Return sentences on who is ahead in each metric, our best recipe or the best rival; empty without a rival."""
    compared = comparisons(records, data_set)
    lines = ["**Where we lose.** " + " ".join(_losses(compared, data_set)), " ".join(_leads(compared, data_set))]
    return "\n".join(line for line in lines if line) if compared else ""


def _losses(compared: Sequence[Comparison], data_set: DataSetProfile) -> list[str]:
    lost = [_sentence(comparison, data_set, "behind") for comparison in compared if comparison.loses]
    return lost or ["By none of these metrics, among what is listed here."]


def _leads(compared: Sequence[Comparison], data_set: DataSetProfile) -> list[str]:
    return [_sentence(comparison, data_set, "ahead of") for comparison in compared if not comparison.loses]


def _sentence(comparison: Comparison, data_set: DataSetProfile, side: str) -> str:
    ours, rival = data_set.text(comparison.figure), data_set.text(comparison.rival_figure)
    gap = data_set.text(abs(comparison.figure - comparison.rival_figure))
    return f"{comparison.column}: our best, {comparison.ours} ({ours}), is {gap} {side} {comparison.rival} ({rival})."


def _aims(records: DataRecords, data_set: DataSetProfile) -> str:
    rows = []
    summaries = [summary for summary in RecipeSummary.all_of(records.runs) if summary.compares(data_set)]
    for aim in data_set.aims:
        figures = [
            data_set.text(aim.figures[c.metric]) if c.metric in aim.figures else ABSENT for c in data_set.columns
        ]
        reached = [summary.recipe for summary in summaries if _reaches(summary, aim, data_set)]
        rows.append([aim.name, *figures, ", ".join(reached) or "no recipe", aim.source])
    return _table(["", *(column.name for column in data_set.columns), "reached by all metrics of", "source"], rows)


def _reaches(summary: RecipeSummary, aim: Anchor, data_set: DataSetProfile) -> bool:
    """Return whether the mean as served is at least the aim, in every metric that the aim names."""
    by_metric = {metric: summary.served(metric) for metric in aim.figures}
    return all(
        statistics is not None and statistics.mean * data_set.scale >= aim.figures[metric]
        for metric, statistics in by_metric.items()
    )


def _sampled(runs: Sequence[RunRecord]) -> str:
    """Return the table of metrics among sampled items."""
    rows = [
        [run.recipe, str(run.seed), *(f"{value:.4f}" for name, value in run.sampled.items() if name != "negatives")]
        for run in runs
        if run.sampled
    ]
    sampled = next(run.sampled for run in runs if run.sampled)
    table = _table(["recipe", "seed", *(name for name in sampled if name != "negatives")], rows)
    negatives = f"{sampled['negatives']:.0f} sampled items"
    note = f"Each target is ranked among {negatives}: far above the full ranking, and not comparable with it."
    return f"{note}\n\n{table}"


def _runs(records: DataRecords, data_set: DataSetProfile) -> str:
    head = ["recipe", "model", "seed", "commit", "bundle", "epochs chosen / run / at most", "training", "examples/s"]
    head += ["validation", "index (recall@20)", "encoder p50", "trained on", "evaluated on", "recorded"]
    return _table(head, [_run_row(run, data_set) for run in records.runs])


def _run_row(run: RunRecord, data_set: DataSetProfile) -> list[str]:
    validation = ", ".join(f"{name} {_text(value, data_set)}" for name, value in run.validation.items())
    trained_on, evaluated_on = run.trained_on, run.machine
    return [
        run.recipe,
        run.model,
        str(run.seed),
        (run.commit or ABSENT)[:13],
        run.bundle[:12],
        f"{run.epochs_chosen} / {run.epochs_run} / {run.epochs_at_most}",
        f"{run.seconds / 60:.1f} min",
        f"{run.examples_per_s:,.0f}",
        validation or ABSENT,
        f"{run.index.description} ({run.index.recall_at_20:.3f})",
        f"{run.encode_p50_ms:.2f} ms",
        f"{trained_on.device}, {trained_on.threads} threads, torch {trained_on.torch}",
        f"{evaluated_on['processor']}, {evaluated_on['cores']} cores, {evaluated_on['memory_gib']} GiB",
        f"{run.recorded:%Y-%m-%d}",
    ]


def _pictures(records: DataRecords, data_set: DataSetProfile, folder: Path, page: Path) -> str:
    curves, quality = folder / records.name / CURVES, folder / records.name / QUALITY
    draw_curves(records, data_set, curves)
    draw_quality(records, data_set, quality)
    here = page.parent
    return (
        f"![Validation by epoch]({Path(relpath(curves, here)).as_posix()})\n"
        f"![Quality against the time of the encoder]({Path(relpath(quality, here)).as_posix()})"
    )


def _ladder(ladder: Ladder, data_set: DataSetProfile) -> str:
    """Return the table of steps with their figures, and the gains over the last kept step before each."""
    metrics = list(ladder.steps[0].validation)
    rows, base = [], ladder.steps[0].validation
    for number, step in enumerate(ladder.steps):
        gains = [step.validation[metric] - base[metric] for metric in metrics]
        figures = [_text(step.validation[metric], data_set) for metric in metrics]
        texts = [ABSENT if number == 0 else _gain(gain, data_set) for gain in gains]
        rows.append(
            [step.step, step.change, *figures, *texts, f"{step.seconds / 60:.1f} min", "yes" if step.kept else "no"]
        )
        base = step.validation if step.kept else base
    head = ["step", "change to the recipe", *(f"validation {metric}" for metric in metrics)]
    return _table([*head, *(f"gain in {metric}" for metric in metrics), "training", "kept"], rows)


def _gain(gain: float, data_set: DataSetProfile) -> str:
    text = data_set.text(gain * data_set.scale)
    return text if text.startswith("-") else f"+{text}"


def _mean_and_deviation(statistics: SeedStatistics | None, data_set: DataSetProfile) -> str:
    if statistics is None:
        return ABSENT
    deviation = "" if statistics.deviation is None else f" ± {_text(statistics.deviation, data_set)}"
    return f"{_text(statistics.mean, data_set)}{deviation}"


def _text(fraction: float | None, data_set: DataSetProfile) -> str:
    return ABSENT if fraction is None else data_set.text(fraction * data_set.scale)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
