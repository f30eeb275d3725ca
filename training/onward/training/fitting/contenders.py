"""The candidates to choose from, alone and joined: several networks, and networks with nearest sessions."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from onward.training.export.session_weight import SESSION_WEIGHTS, WithSessions
from onward.training.fitting.choice import Contender
from onward.training.fitting.compared_examples import Values
from onward.training.fitting.records import METRIC
from onward.training.fitting.trials import Trials
from onward.training.models.ensemble import Ensemble
from onward.training.models.nearest_sessions import NearestSessionsEncoder

JOINED_NETWORKS = 2
"""Number of networks, the best ones, that are joined with each other and with nearest sessions."""


def contenders(trials: Trials) -> Iterator[Contender]:
    """Yield every candidate alone, then the best ones joined."""
    singles = [_contender(trials, (trial.candidate,), None, trials.values(trial.candidate)) for trial in trials.best()]
    yield from singles
    ranked = [of.members[0] for of in sorted(singles, key=lambda of: -float(of.values[METRIC].mean()))]
    nearest = next((name for name in ranked if not trials.candidates[name].recipe.has_steps), None)
    networks = [name for name in ranked if name != nearest and _is_joinable(trials, name)][:JOINED_NETWORKS]
    for count in range(1, len(networks) + 1):
        for members in combinations(networks, count):
            if count > 1:
                trials.journal.on_step(f"joining {' and '.join(members)}")
                yield _contender(trials, members, None, trials.examples.of_encoder(_ensemble(trials, members)))
            if nearest is not None:
                yield _with_sessions(trials, members, nearest)


def _with_sessions(trials: Trials, members: tuple[str, ...], nearest: str) -> Contender:
    """Join networks with nearest sessions, by the weight that is best on the compared examples."""
    trials.journal.on_step(f"joining {' and '.join((*members, nearest))}")
    sessions = trials.encoder(nearest)
    if not isinstance(sessions, NearestSessionsEncoder):
        raise TypeError(f"{nearest} has no nearest sessions")
    network = _ensemble(trials, members)
    tried = {weight: trials.examples.of_encoder(WithSessions(network, sessions, weight)) for weight in SESSION_WEIGHTS}
    weight = max(tried, key=lambda weight: float(tried[weight][METRIC].mean()))
    return _contender(trials, (*members, nearest), weight, tried[weight])


def _contender(trials: Trials, members: tuple[str, ...], weight: float | None, values: Values) -> Contender:
    models = sorted((trials.candidates[member].complexity for member in members), reverse=True)
    return Contender(members, weight, (len(members), *models), values)


def _is_joinable(trials: Trials, name: str) -> bool:
    """Return whether a network can be joined: it learns by steps, reads no users and has one interest."""
    recipe = trials.candidates[name].recipe
    if not recipe.has_steps or getattr(recipe.encoder, "interests", 1) > 1:
        return False
    return not trials.encoder(name).users


def _ensemble(trials: Trials, members: Sequence[str]) -> Ensemble:
    return Ensemble([trials.encoder(member) for member in members])
