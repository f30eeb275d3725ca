"""Which servers do the same job as ours, and what was measured of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onward.service.bench.workload import Sessions
from tests.benchmarks.peers.answers import answered, recall
from tests.benchmarks.peers.environments import NotInstalled
from tests.benchmarks.peers.measuring import Measured, advantages, medians
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.server import NotStarted, Server

OURS, OURS_FAST = "Onward", "Onward .95"
EXACT_RECALL, TOLERANCE = 0.999, 0.005
"""What an exact peer must find, but for ties; how much less than ours one with our index may find."""


class AnotherJob(Exception):
    """A server whose answers are not those of the bundle; one line that says by how much."""


class Comparison:
    """What was found so far."""

    def __init__(self, sessions: Sessions, best: Sequence[Sequence[str]], on_step: Callable[[str], object]) -> None:
        self.left_out: dict[str, str] = {}
        """Peers that are not measured, and why."""
        self.figures: dict[str, Any] = {}
        """By server."""
        self._sessions, self._best, self._on_step = sessions, best, on_step
        self._recalls: dict[str, float] = {}

    def admit(self, server: Server, least: float = 0.0) -> Server:
        """Note what a server finds. Raises AnotherJob where that is less than the `least`; OSError, ValueError."""
        found = recall(answered(server.url, server.api, self._sessions), self._best)
        if found < least:
            raise AnotherJob(f"recall@20 {found:.4f} where the same job gives {least:.4f}")
        self._recalls[server.name] = round(found, 4)
        return server

    def start(self, peers: Sequence[Peer], serve: Callable[[Peer], Server]) -> Iterator[Server]:
        """Those of the peers that can be had."""
        for peer in peers:
            self._on_step(f"starting {peer.name}")
            least = EXACT_RECALL if peer.is_exact else self._recalls[OURS_FAST] - TOLERANCE
            try:
                yield self.admit(serve(peer), least)
            except (NotInstalled, NotStarted, AnotherJob, OSError, ValueError) as error:
                self.leave_out(peer, str(error))

    def leave_out(self, peer: Peer, reason: str) -> None:
        """Go on without a peer."""
        self.left_out[peer.name] = reason
        self._on_step(f"{peer.name} is left out: {reason}")

    def note(self, measured: Measured, peers: Sequence[Peer], servers: Sequence[Server]) -> None:
        """Keep the figures of servers that were measured beside each other; of ours those of the first time."""
        of_peers = {peer.name: peer for peer in peers}
        for server in servers:
            figures: dict[str, Any] = {
                "recall_at_20": self._recalls[server.name],
                "connections": medians(measured, server.name),
            }
            if peer := of_peers.get(server.name):
                figures["onward_is_times_better"] = {
                    ours: advantages(measured, ours, server.name) for ours in (OURS, OURS_FAST)
                }
                figures |= {"settings": peer.settings, "batch": peer.batch, "versions": peer.versions}
            self.figures.setdefault(server.name, figures)
