"""Run all commands as the demo does, on a smaller shop: generate, prepare, train, export, serve."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.process import ServiceProcess

EVENTS, EPOCHS = 20_000, 4


def training(*arguments: str | Path) -> str:
    """Run an `onward-training` command and return what it prints to stdout."""
    command = [sys.executable, "-m", "onward.training", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class DemoFolders:
    """The files and folders that the commands wrote."""

    items: Path
    data: Path
    bundles: Path


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> DemoFolders:
    folder = tmp_path_factory.mktemp("shop")
    events, items = folder / "shop" / "events.parquet", folder / "shop" / "items.parquet"
    training("generate", "--out", folder / "shop", "--events", str(EVENTS), "--seed", "1")
    training("prepare", events, "--items", items, "--out", folder / "data")
    epochs = ("--epochs", str(EPOCHS))
    training("train", "srgnn", "--data", folder / "data", "--out", folder / "run", *epochs, "--device", "cpu")
    training("export", folder / "run", "--bundles", folder / "bundles")
    return DemoFolders(items, folder / "data", folder / "bundles")


@pytest.fixture(scope="session")
def service(shop: DemoFolders) -> Iterator[ServiceProcess]:
    with ServiceProcess(shop.bundles) as process:
        yield process.wait_until_ready()
