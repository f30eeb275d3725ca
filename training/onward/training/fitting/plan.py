"""Plan what a budget allows: which networks are tried, for how long, on how much of the data.

Networks go through successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016) in at most two rungs:

1. All networks are trained for a quarter of their epochs, and then in full; or
2. for a quarter of their epochs, and the best of them in full; or
3. for half of their epochs on the newest share of the sessions, and the chosen one is trained in full in the end; or
4. for a quarter of their epochs, and the chosen one likewise in the end.

The first of these that tries enough networks is taken. The networks that a budget leaves out are the least promising
ones. A short training has a schedule of its own, so it may turn out to be the better one: on little data, networks soon
learn sessions by heart. Whatever the plan, the chosen network is fitted to all sessions in the end, so time is kept for
that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from onward.training.fitting.records import Plan, Rung, Skipped

ENOUGH = 6
FINALISTS = 3
"""Number of networks that the second rung trains in full, if there is no time for all."""
SHORT, SAMPLED = 0.25, 0.5
"""Shares of the epochs of a recipe."""
SAMPLES = (0.5, 0.25, 0.125, 0.0625)
FEWEST_SAMPLED = 50_000
"""Training examples of a sample: of fewer, networks that learn well from all of them may learn nothing."""
USABLE = 0.8
"""Share of the time left that is planned with: measured costs vary, and the bundle has to be built and compared."""
FEWEST_FINAL_EPOCHS = 0.2


class Draft(NamedTuple):
    """A plan for some networks."""

    rungs: tuple[Rung, ...]
    seconds: float
    final_epochs: float = 1.0


def plan_for(costs: Mapping[str, float], networks: Sequence[str], examples: int, seconds: float) -> Plan:
    """Return the plan for what is left of a budget.

    Args:
        costs: expected seconds of a training in full, by candidate.
        networks: the candidates that learn by steps, the most promising first; the others are tried in any case.
        examples: number of training examples.
        seconds: what is left of the budget.
    """
    others = tuple(name for name in costs if name not in networks)
    usable = USABLE * seconds - 2 * sum(costs[name] for name in others)

    def draft(kind: Callable[[Mapping[str, float]], Draft], tried: Sequence[str]) -> Draft:
        made = kind({name: costs[name] for name in tried})
        first = made.rungs[0].model_copy(update={"candidates": (*others, *tried)})
        return made._replace(rungs=(first, *made.rungs[1:]))

    samples = (_sampled(share, usable) for share in SAMPLES if share * examples >= FEWEST_SAMPLED)
    kinds = (_halving(len(networks)), _halving(FINALISTS), *samples, _short)
    fitting = [_most_that_fit(kind, costs, networks, usable) for kind in kinds]
    enough = min(ENOUGH, len(networks))
    tried, kind = next(
        ((names, kind) for names, kind in zip(fitting, kinds, strict=True) if len(names) >= enough),
        max(zip(fitting, kinds, strict=True), key=lambda found: len(found[0])),
    )
    made = draft(kind, tried) if tried else Draft((Rung(share=1, epochs=1, candidates=others, keep=0),), 0)
    why = "a training in full takes about {:,.0f} s, and the budget leaves {:,.0f} s for all trainings"
    return Plan(
        costs=dict(costs),
        rungs=made.rungs,
        skipped=tuple(
            Skipped(candidate=name, why=why.format(costs[name], max(usable, 0)))
            for name in networks
            if name not in tried
        ),
        final_epochs=made.final_epochs,
    )


def _most_that_fit(
    kind: Callable[[Mapping[str, float]], Draft], costs: Mapping[str, float], networks: Sequence[str], usable: float
) -> Sequence[str]:
    """Return the most promising networks for which a kind of plan fits; one that alone does not fit is left out."""
    tried: list[str] = []
    for name in networks:
        if kind({other: costs[other] for other in (*tried, name)}).seconds <= usable:
            tried.append(name)
    return tried


def _halving(finalists: int) -> Callable[[Mapping[str, float]], Draft]:
    def plan(costs: Mapping[str, float]) -> Draft:
        first = Rung(share=1, epochs=SHORT, candidates=tuple(costs), keep=min(finalists, len(costs)))
        second = Rung(share=1, epochs=1, candidates=(), keep=0)
        slowest = sorted(costs.values())[-finalists:]
        return Draft((first, second), SHORT * sum(costs.values()) + sum(slowest) + slowest[-1])

    return plan


def _short(costs: Mapping[str, float]) -> Draft:
    rung = Rung(share=1, epochs=SHORT, candidates=tuple(costs), keep=0)
    return Draft((rung,), SHORT * (sum(costs.values()) + max(costs.values())))


def _sampled(share: float, usable: float) -> Callable[[Mapping[str, float]], Draft]:
    def plan(costs: Mapping[str, float]) -> Draft:
        rung = Rung(share=share, epochs=SAMPLED, candidates=tuple(costs), keep=0)
        search, slowest = share * SAMPLED * sum(costs.values()), max(costs.values())
        final_epochs = min(1.0, max((usable - search) / slowest, FEWEST_FINAL_EPOCHS))
        return Draft((rung,), search + final_epochs * slowest, final_epochs)

    return plan
