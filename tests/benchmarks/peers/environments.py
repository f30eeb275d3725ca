"""A virtual environment for each peer, created once and cached."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

READY = ".ready"
INSTALL_TIMEOUT_S = 900


class NotInstalled(Exception):
    """A peer could not be installed; the message is one line."""


def default_folder() -> Path:
    """Return the folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onward-peers"


def python_of(requirements: Path, folder: Path) -> str:
    """Return the interpreter of an environment with these requirements, created if needed. Raises NotInstalled."""
    environment = folder / f"{requirements.stem}-{_digest(requirements)}"
    python = environment / "bin" / "python"
    if not (environment / READY).exists():
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
        (environment / READY).touch()
    return str(python)


def _digest(requirements: Path) -> str:
    """Hash the requirements, the file that they may include, and the version of the interpreter."""
    names = (requirements, requirements.parent / "model.txt")
    return hashlib.sha256(b"".join(file.read_bytes() for file in names) + sys.version.encode()).hexdigest()[:12]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not installed after {INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise NotInstalled(next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}"))
