"""Virtual environments that hold the built wheel, and the commands run in them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "REDIS_URL")
"""Variables that would change what a command imports or which store it uses."""


class CheckFailed(Exception):
    """A fact that does not hold: what was expected, and what was found."""


def expect(actual: object, expected: object) -> None:
    """Raise CheckFailed if the two differ."""
    if actual != expected:
        raise CheckFailed(f"expected {expected!r}\nfound    {actual!r}")


def run(command: list[str], *, cwd: Path = ROOT, expected_code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run a command and return what it printed. Raises CheckFailed if it exits with another code."""
    completed = subprocess.run(command, cwd=cwd, env=variables(), capture_output=True, text=True, check=False)
    if completed.returncode != expected_code:
        output = f"{completed.stdout}{completed.stderr}"
        raise CheckFailed(f"exit code {completed.returncode} instead of {expected_code}: {' '.join(command)}\n{output}")
    return completed


def variables() -> dict[str, str]:
    """Return the environment variables that a command inherits."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the folder in which its programs run."""

    folder: Path
    work: Path

    def command(self, *arguments: str | Path) -> list[str]:
        """Return a command line whose first word is a program of this environment."""
        program, *rest = map(str, arguments)
        return [str(self.folder / "bin" / program), *rest]

    def run(self, *arguments: str | Path, expected_code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a program in the work folder. Raises CheckFailed if it exits with another code."""
        return run(self.command(*arguments), cwd=self.work, expected_code=expected_code)

    @contextmanager
    def start(self, *arguments: str | Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a program beside the block, with its output in `log`; it is killed if the block does not end it."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*arguments), cwd=self.work, env=variables(), stdout=output, stderr=subprocess.STDOUT
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()


def create_environment(folder: Path, work: Path, wheel: Path, *, lock: Path | None, torch: str | None) -> Environment:
    """Create a virtual environment with the wheel, or reuse one that was made from the same requirements.

    Args:
        folder: of the environment.
        work: folder in which its programs run.
        wheel: installed anew in any case.
        lock: what to install, with hashes; if None, the base dependencies at the versions of the service's lock.
        torch: version of torch to install without CUDA, if any.
    """
    environment = Environment(folder, work)
    stamp = folder / ".installed"
    key = _digest(lock or REQUIREMENTS / "service.lock", ROOT / "pyproject.toml", Path(__file__)) + str(torch)
    if not stamp.exists() or stamp.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(folder)])
        if torch is not None:
            run(["sh", str(REQUIREMENTS / "install-torch.sh"), str(folder / "bin" / "python"), torch, "cpu"])
        if lock is not None:
            environment.run("pip", "install", "--quiet", "--no-compile", "--requirement", lock)
        else:
            constraints = _without_hashes(REQUIREMENTS / "service.lock", folder / "constraints.txt")
            environment.run("pip", "install", "--quiet", "--no-compile", "--constraint", constraints, wheel)
        stamp.write_text(key)
    environment.run("pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    return environment


def _digest(*files: Path) -> str:
    digest = sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _without_hashes(lock: Path, path: Path) -> Path:
    """Write the versions of a lock to `path`: with hashes, pip would refuse the wheel, for which there is none."""
    versions = [line.rstrip("\\ ") for line in lock.read_text().splitlines() if "==" in line]
    path.write_text("\n".join(versions) + "\n")
    return path
