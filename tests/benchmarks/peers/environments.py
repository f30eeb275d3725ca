"""A virtual environment for each peer, made once and kept."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

READY = ".ready"
INSTALL_TIMEOUT_S = 900


class NotInstalled(Exception):
    """A peer that could not be installed; one line that says why."""


def default_folder() -> Path:
    """Among the caches of the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onward-peers"


def python_of(requirements: Path, folder: Path) -> str:
    """The interpreter of the environment that holds what a file of requirements asks for. Raises NotInstalled."""
    environment = folder / f"{requirements.stem}-{_digest(requirements)}"
    python = environment / "bin" / "python"
    if not (environment / READY).exists():
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
        (environment / READY).touch()
    return str(python)


def _digest(requirements: Path) -> str:
    """Of every file that it may name, which all lie beside it, and of the interpreter."""
    names = (requirements, requirements.parent / "model.txt")
    return hashlib.sha256(b"".join(file.read_bytes() for file in names) + sys.version.encode()).hexdigest()[:12]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not installed after {INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise NotInstalled(next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}"))
