"""What is compared: the command of each server, where it is installed, and what it does."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from onward.service.bench.api import post

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
APPS = "tests.benchmarks.peers.apps"

Command = Callable[[str, int], list[str]]
"""From a module and a port to what follows `python`."""


@dataclass(frozen=True, slots=True)
class PeerApi:
    """How every peer is asked; the generator sends it to its process."""

    k: int = 20

    def request(self, session_id: str, item_id: str) -> bytes:
        body = f'{{"session_id": "{session_id}", "items": ["{item_id}"], "k": {self.k}}}'
        return post("/recommendations", "localhost", body.encode())

    def fault(self, status: int, body: bytes) -> str | None:
        if status != 200:
            return f"status {status}"
        return None if b'"id":' in body else "no items"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server that is not ours."""

    name: str
    app: str
    """Its module among the apps."""
    command: Command
    requirements: str | None = None
    """Its file among the requirements; None for what runs in the environment of the benchmark."""
    environment: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1
    """How many queries it answers together at most."""
    is_exact: bool = False
    """Whether it compares every item."""
    is_restless: bool = False
    """Whether its processes work while nobody asks, so that it is measured with Onward alone beside it."""

    @property
    def module(self) -> str:
        return f"{APPS}.{self.app}"

    @property
    def settings(self) -> str:
        """What its module says of itself, in one line."""
        tree = ast.parse((HERE / "apps" / f"{self.app}.py").read_text())
        return " ".join((ast.get_docstring(tree) or "").split())

    @property
    def requirements_file(self) -> Path | None:
        return None if self.requirements is None else HERE / "requirements" / f"{self.requirements}.txt"

    @property
    def versions(self) -> dict[str, str]:
        """What its environment pins."""
        return {} if self.requirements_file is None else _pins(self.requirements_file)


def _pins(file: Path) -> dict[str, str]:
    versions: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            versions |= _pins(file.parent / line[3:])
        else:
            package, _, version = line.partition("==")
            versions[package] = version
    return versions


def _uvicorn(module: str, port: int) -> list[str]:
    quiet = ["--no-access-log", "--log-level", "warning"]
    return ["-m", "uvicorn", f"{module}:app", "--port", str(port), "--loop", "uvloop", "--http", "httptools", *quiet]


def _mosec(module: str, port: int) -> list[str]:
    return ["-m", module, "--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]


def _bentoml(module: str, port: int) -> list[str]:
    return ["-m", "bentoml", "serve", f"{module}:Recommender", "--host", "127.0.0.1", "--port", str(port)]


def _with_port(module: str, port: int) -> list[str]:
    return ["-m", module, str(port)]


_RAY = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
TOGETHER = 16
"""How many queries the peers that answer in batches take at most: as many as are ever in flight."""

PLAIN = Peer("plain FastAPI", "plain_fastapi", _uvicorn, is_exact=True)
MOSEC = Peer("mosec", "mosec_server", _mosec, "mosec")
LITSERVE = Peer("LitServe", "litserve_server", _with_port, "litserve", {"LITSERVE_DISABLE": "1"})
RAY = Peer("Ray Serve", "ray_server", _with_port, "ray", _RAY, is_restless=True)
PEERS = (
    PLAIN,
    Peer("good FastAPI", "good_fastapi", _uvicorn),
    MOSEC,
    replace(MOSEC, name="mosec, batches", batch=TOGETHER),
    LITSERVE,
    replace(LITSERVE, name="LitServe, batches", batch=TOGETHER),
    Peer("BentoML", "bentoml_server", _bentoml, "bentoml", {"BENTOML_DO_NOT_TRACK": "True"}),
    RAY,
    replace(RAY, name="Ray Serve, batches", batch=TOGETHER),
)
