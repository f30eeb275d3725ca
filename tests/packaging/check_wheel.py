"""Install the built wheel and use it as a user would, outside the checkout: `make check-wheel`.

The sdist and the wheel are built, and the wheel is installed into three virtual environments: with the extra
`training`, with the extra `service`, and with no extra. Their commands run in a folder that has packages `service` and
`training` of its own, which must not be imported. The environments are kept below build/wheel-check, for the next run
with the same requirements.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile

import httpx
import typer

from tests.packaging.environments import (
    REQUIREMENTS,
    ROOT,
    CheckFailed,
    Environment,
    create_environment,
    expect,
    run,
)

BUILD = ROOT / "build" / "wheel-check"
WORK = BUILD / "work"
"""The folder in which the commands run, emptied by each run of this script."""
PACKAGES = ("bundle", "service", "training")
READY_TIMEOUT_S = 60
VERSION = f"onward {version('onward')}\n"

LIBRARY_EXAMPLE = """
from pathlib import Path
from onward.bundle import Bundle, Options, SessionView
bundle = Bundle.load(Path("bundles/current"))
session = SessionView([item.item_id for item in bundle.popular(Options(2)).items])
print(*(item.item_id for item in bundle.retrieve(session, Options(5)).items))
"""


class Checks:
    """Prints a line for each check and counts those that passed; the first that fails ends the script."""

    def __init__(self) -> None:
        self.passed = 0

    @contextmanager
    def __call__(self, fact: str) -> Iterator[None]:
        """Check a fact in a block that raises one of these errors if it does not hold."""
        start = time.monotonic()
        try:
            yield
        except (CheckFailed, OSError, httpx.HTTPError, subprocess.TimeoutExpired) as error:
            typer.echo(f"FAIL  {fact}\n{error}\ncheck-wheel: {self.passed} passed, 1 failed")
            raise typer.Exit(1) from error
        self.passed += 1
        typer.echo(f"ok    {fact} ({time.monotonic() - start:.1f} s)")
        sys.stdout.flush()


def check_wheel(torch: Annotated[str, typer.Option(help="Version of torch to train with.")]) -> None:
    """Build, install and check; exit code 1 if a check fails."""
    check = Checks()
    prepare_folders()
    wheel = build_wheel(check)
    check_contents(check, wheel)
    check_training(check, wheel, torch)
    check_service(check, wheel)
    check_base(check, wheel)
    typer.echo(f"check-wheel: {check.passed} passed, 0 failed")


def prepare_folders() -> None:
    """Empty the folders of archives and of commands; put the packages that must not be imported into the latter."""
    for folder in (BUILD / "dist", BUILD / "from-checkout", WORK):
        shutil.rmtree(folder, ignore_errors=True)
    for package in ("service", "training"):
        (WORK / package).mkdir(parents=True)
        (WORK / package / "__init__.py").write_text("raise RuntimeError('imported from the working folder')\n")


def build_wheel(check: Checks) -> Path:
    """Build the sdist, and the wheel from it; return the wheel."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    with check("python -m build makes an sdist, and a wheel from it"):
        run([*build, str(BUILD / "dist"), "."])
        (wheel,) = (BUILD / "dist").glob("onward-*.whl")
    with check("the wheel from the sdist equals that from the checkout"):
        run([*build, str(BUILD / "from-checkout"), "--wheel", "."])
        if contents(wheel) != contents(BUILD / "from-checkout" / wheel.name):
            raise CheckFailed(f"compare the wheels in {BUILD / 'dist'} and {BUILD / 'from-checkout'}")
    return wheel


def check_contents(check: Checks, wheel: Path) -> None:
    """Check that the wheel holds the three packages with all their files, and nothing else."""
    installed = {name for name in contents(wheel) if ".dist-info/" not in name}
    with check(f"{wheel.name} holds the packages {', '.join(f'onward.{name}' for name in PACKAGES)}, and no other"):
        expect(sorted({"/".join(name.split("/")[:2]) for name in installed}), [f"onward/{name}" for name in PACKAGES])
    with check("it holds every file of the checkout's packages, with py.typed, Lua scripts and recipes"):
        expect(sorted(installed ^ package_files()), [])
        expect(
            sorted(name for name in installed if name.endswith("py.typed")), [f"onward/{p}/py.typed" for p in PACKAGES]
        )
        expect({Path(name).suffix for name in installed} >= {".lua", ".toml"}, True)


def check_training(check: Checks, wheel: Path, torch: str) -> None:
    """Check the extra `training`: from click logs to a bundle."""
    training = install(check, "training", wheel, torch=torch)
    onward_training = ("python", "-m", "onward.training")
    with check("[training] generate and prepare make a dataset"):
        training.run(*onward_training, "generate", "--out", "shop", "--events", "3000", "--seed", "1")
        arguments = ("shop/events.parquet", "--items", "shop/items.parquet", "--out", "dataset")
        training.run(*onward_training, "prepare", *arguments)
    with check("[training] train fits a recipe of the package"):
        training.run(*onward_training, "train", "srgnn", "--data", "dataset", "--out", "run", "--epochs", "1")
    with check("[training] export makes a bundle"):
        training.run(*onward_training, "export", "run", "--bundles", "bundles")
    check_missing_extra(check, training, "service", "onward-service", "serve", "--bundles", "bundles")


def check_service(check: Checks, wheel: Path) -> None:
    """Check the extra `service`: answers from that bundle."""
    service = install(check, "service", wheel)
    with check("[service] onward-service serve answers POST /v1/recommendations"):
        expect([item["source"] for item in served_items(service)], ["encoder"] * 5)
    with check("[service] python -m onward.service examples prints calls with items of the bundle"):
        expect("curl" in service.run("python", "-m", "onward.service", "examples", "--bundles", "bundles").stdout, True)
    check_missing_extra(check, service, "training", "onward-training", "generate", "--out", "other-shop")


def check_base(check: Checks, wheel: Path) -> None:
    """Check an installation without extras: bundles as a library, and commands that say what they lack."""
    base = install(check, None, wheel)
    with check("[no extra] a bundle can be read and asked from Python"):
        expect(len(base.run("python", "-c", LIBRARY_EXAMPLE).stdout.split()), 5)
    check_missing_extra(check, base, "service", "onward-service", "serve", "--bundles", "bundles")
    check_missing_extra(check, base, "training", "onward-training", "generate", "--out", "other-shop")
    check_missing_extra(check, base, "training", "onward-training", "prepare", "shop", "--out", "other-dataset")
    check_missing_extra(check, base, "training", "onward-training", "train", "srgnn", "--data", "dataset", "--out", "r")
    check_missing_extra(check, base, "cloud", "onward-training", "activate", "s3://shop/bundles")


def install(check: Checks, extra: str | None, wheel: Path, *, torch: str | None = None) -> Environment:
    """Install the wheel with an extra, and check its commands' versions and that no requirement is missing."""
    lock = None if extra is None else REQUIREMENTS / f"{extra}.lock"
    label, requirement = ("[no extra]", "onward") if extra is None else (f"[{extra}]", f"onward[{extra}]")
    with check(f"{label} the wheel installs into a virtual environment"):
        environment = create_environment(BUILD / (extra or "no-extra"), WORK, wheel, lock=lock, torch=torch)
    with check(f"{label} every requirement of {requirement} is installed"):
        environment.run("pip", "check")
        planned = environment.run("pip", "install", "--no-index", "--dry-run", requirement).stdout
        expect([line for line in planned.splitlines() if line.startswith("Would install")], [])
    with check(f"{label} --version and --help work for both commands"):
        for command in ("onward-service", "onward-training"):
            expect(environment.run(command, "--version").stdout, VERSION)
            environment.run(command, "--help")
    return environment


def check_missing_extra(check: Checks, environment: Environment, extra: str, *command: str) -> None:
    """Check that a command whose extra is not installed names it in one line, with exit code 2."""
    with check(f"`{' '.join(command[:2])}` says that the extra [{extra}] is not installed"):
        completed = environment.run(*command, expected_code=2)
        lines = completed.stderr.splitlines()
        if len(lines) != 1 or not lines[0].endswith(f" is not installed: pip install 'onward[{extra}]'"):
            raise CheckFailed(completed.stderr)
        expect(completed.stdout, "")


def served_items(service: Environment) -> list[dict[str, Any]]:
    """Serve the bundle on a free port, and return the items that it recommends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, url = WORK / "service.log", f"http://127.0.0.1:{port}"
    with service.start("onward-service", "serve", "--bundles", "bundles", "--port", str(port), log=log) as process:
        wait_until_ready(url, process, log)
        query = {"session_id": "visitor-1", "items": ["item-1", "item-2"], "k": 5}
        answer = httpx.post(f"{url}/v1/recommendations", json=query).raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        process.terminate()
        expect(process.wait(READY_TIMEOUT_S), 0)
    return items


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the service is ready. Raises CheckFailed with its log if it ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise CheckFailed(f"the service is not ready:\n{log.read_text()}")


def package_files() -> set[str]:
    """Return the files of the checkout's packages by the path that they are installed at."""
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "service/onward", "training/onward"])
    return {path.partition("/")[2] for path in listed.stdout.splitlines() if (ROOT / path).exists()}


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel by name."""
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


if __name__ == "__main__":
    typer.run(check_wheel)
