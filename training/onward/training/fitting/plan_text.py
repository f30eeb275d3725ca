"""A plan and a choice in words, for the console and the page."""

from collections.abc import Iterator, Mapping

from onward.training.fitting.records import METRIC, Choice, Plan


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield what is tried, and what is not and why, one line each."""
    for number, rung in enumerate(plan.rungs, 1):
        which = ", ".join(rung.candidates) or f"the best {plan.rungs[number - 2].keep} networks, at most two of a model"
        how = "in full" if rung.epochs == 1 else f"for {rung.epochs:.0%} of their epochs"
        on = "" if rung.share == 1 else f" on the newest {rung.share:.1%} of the training sessions"
        yield f"rung {number}: {which}, {how}{on}"
    if plan.final_epochs < 1:
        yield f"the chosen network is fitted for {plan.final_epochs:.0%} of its epochs"
    for skipped in plan.skipped:
        yield f"skipped: {skipped.candidate}: {skipped.why}"


def choice_lines(choice: Choice, floor: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield what was chosen and why, one line each."""
    winner, best = choice.winner, choice.compared[choice.best]
    why = "the best on validation"
    if winner is not best:
        why = f"{best.name} is better by {winner.difference:.4f} only, less than the error of that ({winner.error:.4f})"
    weight = "" if winner.session_weight is None else f", nearest sessions weighted {winner.session_weight:g}"
    yield f"chosen: {winner.name}{weight}: {figures(winner.metrics)}; {why}"
    below = [name for name, metrics in floor.items() if metrics[METRIC] > winner.metrics[METRIC]]
    if below:
        yield f"below the floor on validation: {', '.join(below)}"


def figures(metrics: Mapping[str, float]) -> str:
    """Return metrics as text."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
