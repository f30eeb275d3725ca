"""The page of a fit: what was tried, the floor, learning curves, costs, what was chosen and why."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onward.bundle import GateReport
from onward.training.atomic_file import write_text
from onward.training.fitting.plan_text import choice_lines, plan_lines
from onward.training.fitting.records import METRIC, FitRecord, Trial
from onward.training.html_page import bullet_list, line_chart, page, paragraph, section, table

CURVES = 8
"""Number of learning curves that are drawn, those of the best trials of the last rung."""


def write_page(record: FitRecord, path: Path) -> None:
    """Write the page of a fit."""
    write_text(path, page(f"Fit of {Path(record.data).name}", _sections(record)))


def _sections(record: FitRecord) -> Iterator[str]:
    yield section("Result", bullet_list(_result(record)))
    if record.gate is not None:
        metrics = list(record.gate.figures["bundle"])
        rows = [(name, *_cells(figures, metrics)) for name, figures in record.gate.figures.items()]
        yield section(
            "Figures of the bundle on test sessions",
            paragraph(f"{record.gate.examples:,} examples of {record.gate.sessions:,} sessions, asked once."),
            table(("", *metrics), rows, marked=frozenset({0})),
        )
        if record.gate.slices:
            yield section("By kinds of targets: recall@20, MRR@20", _slices(record.gate))
            yield section("What is shown", *_concentration(record.gate))
    yield section("Compared on validation", *_compared(record))
    yield section("Trainings", *_trainings(record))
    if record.plan is not None:
        yield section("Plan", bullet_list(plan_lines(record.plan)))
    if record.adapted:
        yield section("Defaults adapted to the data", bullet_list(record.adapted))


def _result(record: FitRecord) -> Iterator[str]:
    if record.choice is not None:
        yield from choice_lines(record.choice, record.floor)
    if record.bundle is not None:
        state = "live" if record.live else f"staged, not live: {record.gate_fault}"
        forced = f", by --force, although {record.gate_fault}" if record.live and record.gate_fault else ""
        yield f"bundle {record.bundle[:12]}: {state}{forced}"
    yield f"left out of answers by default: {record.left_out}"
    yield f"{record.spent_s:,.0f} s of a budget of {record.budget_s:,.0f} s; seed {record.seed}"


def _compared(record: FitRecord) -> Iterator[str]:
    yield paragraph(
        f"{record.examples:,} validation examples of the newest sessions, full ranking. Of those within one standard "
        f"error of the best {METRIC}, by the paired test over sessions, the simplest is chosen."
    )
    rows: list[Sequence[str]] = []
    marked: set[int] = set()
    metrics = list(next(iter(record.floor.values()), {}))
    for name, figures in record.floor.items():
        rows.append((name, "floor", *_cells(figures, metrics), ""))
    if record.choice is not None:
        for place, of in enumerate(record.choice.compared):
            if place == record.choice.chosen:
                marked.add(len(rows))
            role = "chosen" if place == record.choice.chosen else "best" if place == record.choice.best else ""
            distance = "" if place == record.choice.best else f"{-of.difference:+.4f} ± {of.error:.4f}"
            rows.append((of.name, role, *_cells(of.metrics, metrics), distance))
    yield table(("", "", *metrics, f"{METRIC}, from the best"), rows, texts=2, marked=frozenset(marked))


def _slices(gate: GateReport) -> str:
    rows = []
    for by, parts in gate.slices.get("bundle", {}).items():
        for part, figures in parts.items():
            of_each = (slices[by][part] for slices in gate.slices.values())
            cells = (f"{of['recall@20']:.4f}, {of['mrr@20']:.4f}" for of in of_each)
            rows.append((part, f"{figures['examples']:,.0f}", *cells))
    return table(("", "targets", *gate.slices), rows)


def _concentration(gate: GateReport) -> Iterator[str]:
    yield paragraph(
        "The Gini coefficient is 0 if all products are shown alike, near 1 if few take all places. Popularity is the "
        "mean number of events of what is shown, beside that of what came next."
    )
    header = ("", "Gini", "popularity of what is shown", "of what came next")
    rows = [
        (name, f"{of['gini@20']:.3f}", f"{of['popularity_shown@20']:,.1f}", f"{of['popularity_next']:,.1f}")
        for name, of in gate.concentration.items()
    ]
    yield table(header, rows)


def _trainings(record: FitRecord) -> Iterator[str]:
    metrics = list(next(iter(record.floor.values()), {}))
    rows = [
        (
            trial.candidate,
            str(trial.rung),
            f"{trial.best_epoch} of {trial.epochs}",
            f"{trial.seconds:,.0f}",
            *(_cells(trial.metrics, metrics) if trial.metrics else (trial.failure or "",)),
        )
        for trial in record.trials
    ]
    yield table(("", "rung", "best epoch", "seconds", *metrics), rows)
    last = max((trial.rung for trial in record.trials), default=0)
    curves = [trial for trial in record.trials if trial.rung == last and len(trial.curve) > 1]
    best: list[Trial] = sorted(curves, key=lambda trial: -max(trial.curve))[:CURVES]
    yield line_chart({trial.candidate: trial.curve for trial in best}, x="epoch", y="validation metric of the recipe")


def _cells(figures: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    return [f"{figures[metric]:.4f}" if metric in figures else "" for metric in metrics]
