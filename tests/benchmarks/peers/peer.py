"""The servers to compare with: their commands, requirements and settings."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from onward.service.bench.load_generator.api import post

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
APPS = "tests.benchmarks.peers.apps"

Command = Callable[[str, int], list[str]]
"""Takes a module and a port, returns the arguments of `python`."""


@dataclass(frozen=True, slots=True)
class PeerApi:
    """The HTTP interface of every peer."""

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
    """A server to compare with."""

    name: str
    app: str
    """Its module in `apps`."""
    command: Command
    requirements: str | None = None
    """Its file in `requirements`; None if it runs in the environment of the benchmark."""
    environment: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1
    """The largest batch of queries."""
    is_exact: bool = False
    """Whether its search is exact."""
    is_busy_when_idle: bool = False
    """Whether its processes use processor time while idle; it then runs beside Onward alone."""

    @property
    def module(self) -> str:
        return f"{APPS}.{self.app}"

    @property
    def settings(self) -> str:
        """The docstring of its module, in one line."""
        tree = ast.parse((HERE / "apps" / f"{self.app}.py").read_text())
        return " ".join((ast.get_docstring(tree) or "").split())

    @property
    def requirements_file(self) -> Path | None:
        return None if self.requirements is None else HERE / "requirements" / f"{self.requirements}.txt"

    @property
    def versions(self) -> dict[str, str]:
        """The versions that its requirements pin."""
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
    log_options = ["--no-access-log", "--log-level", "warning"]
    return [
        "-m",
        "uvicorn",
        f"{module}:app",
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        *log_options,
    ]


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
MAX_BATCH = 16
"""The largest batch of the peers with batching: the most requests in flight."""

PLAIN = Peer("plain FastAPI", "plain_fastapi", _uvicorn, is_exact=True)
MOSEC = Peer("mosec", "mosec_server", _mosec, "mosec")
LITSERVE = Peer("LitServe", "litserve_server", _with_port, "litserve", {"LITSERVE_DISABLE": "1"})
RAY = Peer("Ray Serve", "ray_server", _with_port, "ray", _RAY, is_busy_when_idle=True)
PEERS = (
    PLAIN,
    Peer("good FastAPI", "good_fastapi", _uvicorn),
    MOSEC,
    replace(MOSEC, name="mosec, batches", batch=MAX_BATCH),
    LITSERVE,
    replace(LITSERVE, name="LitServe, batches", batch=MAX_BATCH),
    Peer("BentoML", "bentoml_server", _bentoml, "bentoml", {"BENTOML_DO_NOT_TRACK": "True"}),
    RAY,
    replace(RAY, name="Ray Serve, batches", batch=MAX_BATCH),
)
