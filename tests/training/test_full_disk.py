"""A full disk is said as such, in one line, by every command that writes; nothing half-written stays."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset
from onward.training.errors import DiskFull, disk_faults
from onward.training.export.export import export
from onward.training.export.rebuild import rebuild
from onward.training.recipe import Recipe
from onward.training.trainer import train
from onward.training.tuning.study import tune

MakeDisk = Callable[[int], Path]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Mount disks of a few KiB in memory."""
    disks: list[Path] = []

    def make(kib: int) -> Path:
        disk = tmp_path / f"disk-{len(disks)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can be mounted by root only")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def test_a_training_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    recipe: Recipe, dataset: Dataset, make_disk: MakeDisk
) -> None:
    disk = make_disk(48)
    with pytest.raises(DiskFull, match=r"run: the disk is full; free some space") as refused:
        train(recipe, dataset.folder, disk / "run", device_name="cpu", epochs=2)
    assert "\n" not in str(refused.value)
    assert list(disk.rglob("*.partial")) == []
    grow(disk)
    assert train(recipe, dataset.folder, disk / "run", device_name="cpu", epochs=2, resume=True)


@pytest.mark.parametrize("kib", [4, 16, 48])
def test_a_study_on_a_full_disk_says_so(kib: int, recipe: Recipe, dataset: Dataset, make_disk: MakeDisk) -> None:
    disk = make_disk(kib)
    with pytest.raises(DiskFull, match="the disk is full"):
        tune(recipe, {"encoder.dropout": "0..0.2"}, dataset.folder, disk / "study", trials=1, device_name="cpu")


@pytest.mark.parametrize("kib", [4, pytest.param(40, marks=pytest.mark.slow), pytest.param(80, marks=pytest.mark.slow)])
def test_an_export_to_a_full_disk_says_so_and_leaves_nothing(kib: int, run: Path, make_disk: MakeDisk) -> None:
    disk = make_disk(kib)
    with pytest.raises(DiskFull, match="bundles: the disk is full"):
        export([run], disk / "bundles")
    assert [path.name for path in (disk / "bundles").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_rebuild_on_a_full_disk_says_so(run: Path, make_disk: MakeDisk) -> None:
    disk = make_disk(64 * 1024)
    export([run], disk / "bundles")
    with (disk / "filler").open("wb", buffering=0) as filler:
        filler.write(b"0" * 2**26)  # as much as there is space for
    with pytest.raises(DiskFull, match="bundles: the disk is full"):
        rebuild(disk / "bundles")


COMMANDS = {
    "generate": ["generate", "--out", "{disk}/shop", "--events", "20000"],
    "prepare": ["prepare", "{events}", "--out", "{disk}/dataset"],
    "train": ["train", "{recipe}", "--data", "{data}", "--out", "{disk}/run", "--device", "cpu", "--epochs", "1"],
    "export": ["export", "{run}", "--bundles", "{disk}/bundles"],
}
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from onward.training.__main__ import main
main()
"""


SLOW_COMMANDS = ("train", "export")


@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW_COMMANDS else ()) for name in COMMANDS],
)
def test_a_command_says_in_one_line_that_a_file_may_not_grow(
    command: str, run: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(recipe.text)
    places = {
        "disk": tmp_path / "disk",
        "events": dataset.folder.parent / "events.parquet",
        "recipe": tmp_path / "recipe.toml",
        "data": dataset.folder,
        "run": run,
    }
    (tmp_path / "disk").mkdir()
    arguments = [argument.format(**places) for argument in COMMANDS[command]]
    completed = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert completed.returncode == 2
    *_, last = completed.stderr.splitlines()
    assert last.startswith(f"error: {tmp_path / 'disk'}/")
    assert "a file would exceed the largest size" in last or "a write ended early" in last
    assert "Traceback" not in completed.stderr
    left = [path for path in (tmp_path / "disk").rglob(".*") if path.is_dir() or path.name.endswith(".partial")]
    assert left == []


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), disk_faults(tmp_path):
        raise RuntimeError("shapes differ")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
