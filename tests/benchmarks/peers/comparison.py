"""Which servers give the same answers as Onward, and the figures of those."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onward.service.bench.load_generator.workload import Sessions
from tests.benchmarks.peers.answers import last_answers, recall
from tests.benchmarks.peers.environments import NotInstalled
from tests.benchmarks.peers.measuring import Measured, advantages, medians
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.server import NotStarted, Server

OURS, OURS_FAST = "Onward", "Onward .95"
EXACT_RECALL, TOLERANCE = 0.999, 0.005
"""Least recall of an exact peer, ties aside; how far a peer with Onward's index may stay below Onward's recall."""


class DifferentAnswers(Exception):
    """The recall of a server is too low to be compared; the message is one line."""


class Comparison:
    """The results so far."""

    def __init__(self, sessions: Sessions, best: Sequence[Sequence[str]], on_step: Callable[[str], object]) -> None:
        self.excluded: dict[str, str] = {}
        """The reason for each peer that is not measured."""
        self.figures: dict[str, Any] = {}
        """Figures by server."""
        self._sessions, self._best, self._on_step = sessions, best, on_step
        self._recalls: dict[str, float] = {}

    def check(self, server: Server, least: float = 0.0) -> Server:
        """Measure the recall of a server. Raises DifferentAnswers if it is below `least`; OSError, ValueError."""
        measured = recall(last_answers(server.url, server.api, self._sessions), self._best)
        if measured < least:
            raise DifferentAnswers(f"recall@20 {measured:.4f} is below {least:.4f}")
        self._recalls[server.name] = round(measured, 4)
        return server

    def start(self, peers: Sequence[Peer], serve: Callable[[Peer], Server]) -> Iterator[Server]:
        """Start the peers; yields those that run and pass the check."""
        for peer in peers:
            self._on_step(f"starting {peer.name}")
            least = EXACT_RECALL if peer.is_exact else self._recalls[OURS_FAST] - TOLERANCE
            try:
                yield self.check(serve(peer), least)
            except (NotInstalled, NotStarted, DifferentAnswers, OSError, ValueError) as error:
                self.exclude(peer, str(error))

    def exclude(self, peer: Peer, reason: str) -> None:
        """Continue without a peer."""
        self.excluded[peer.name] = reason
        self._on_step(f"{peer.name} is left out: {reason}")

    def record(self, measured: Measured, peers: Sequence[Peer], servers: Sequence[Server]) -> None:
        """Store the figures of servers measured in turn; those of Onward from its first group only."""
        peers_by_name = {peer.name: peer for peer in peers}
        for server in servers:
            figures: dict[str, Any] = {
                "recall_at_20": self._recalls[server.name],
                "connections": medians(measured, server.name),
            }
            if peer := peers_by_name.get(server.name):
                figures["onward_is_times_better"] = {
                    ours: advantages(measured, ours, server.name) for ours in (OURS, OURS_FAST)
                }
                figures |= {"settings": peer.settings, "batch": peer.batch, "versions": peer.versions}
            self.figures.setdefault(server.name, figures)
