"""What is built and installed is pinned: packages by hash, base images by an argument of the build."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pinned(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_of_a_lock_has_hashes_and_no_lock_names_a_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert entries
    assert all(HASH.search(entry) for entry in entries)
    assert "://" not in text
    assert "--index" not in text


def test_the_build_backend_is_the_one_of_the_lock() -> None:
    pin = f"hatchling=={pinned('build.lock')['hatchling']}"
    assert PYPROJECT["build-system"]["requires"] == [pin]
    assert PYPROJECT["dependency-groups"]["build"] == [pin]
    assert pin in PYPROJECT["project"]["optional-dependencies"]["dev"]
    in_dev = pinned("dev.lock")
    assert pinned("build.lock").items() <= in_dev.items()


def files_of(lock: str) -> dict[str, list[str]]:
    """Return the hashes of each package and version of a lock."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return {entry.split()[0]: HASH.findall(entry) for entry in text.replace("\\\n", " ").splitlines()}


@pytest.mark.parametrize("lock", ["service.lock", "training.lock"])
def test_what_an_image_installs_is_what_is_tested(lock: str) -> None:
    assert files_of(lock).items() <= files_of("dev.lock").items()


def test_torch_has_one_version_everywhere() -> None:
    version = pinned("torch.lock")["torch"]
    assert f"TORCH_VERSION = {version}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"ARG TORCH_VERSION={version}\n" in DOCKERFILE


def test_base_images_are_build_arguments() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    outside = [image for image, _ in stages if image not in {name for _, name in stages}]
    assert outside == ["${PYTHON_IMAGE}"]
    assert DOCKERFILE.index("ARG PYTHON_IMAGE=python:") < DOCKERFILE.index("FROM ")
    images = re.findall(r"^ +image: (\S+)$", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert all(image.startswith(("onward-", "${")) for image in images)


def test_images_install_from_locks_and_what_was_built_of_them() -> None:
    installs = re.findall(r"pip install ([^&\n]+)", DOCKERFILE)
    assert installs
    assert all(install.startswith(("--requirement requirements/", "--no-deps /wheels/")) for install in installs)
    builds = re.findall(r"pip wheel ([^&\n]+)", DOCKERFILE)
    assert builds
    assert all("--no-build-isolation" in build for build in builds)


@pytest.mark.parametrize(("version", "code"), [(pinned("torch.lock")["torch"], 0), ("1.0", 1)])
def test_torch_of_pypi_is_installed_by_hash_or_not_at_all(tmp_path: Path, version: str, code: int) -> None:
    calls = tmp_path / "calls"
    programs = {
        "python": f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *import*|*+cpu*) exit 1;; esac\n',
        "uname": '#!/bin/sh\ncase "$1" in -s) echo Linux;; *) echo aarch64;; esac\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    run = subprocess.run(
        ["sh", ROOT / "requirements" / "install-torch.sh", tmp_path / "python", version, "cpu"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == code
    last = calls.read_text().splitlines()[-1]
    if code:
        assert run.stderr.endswith("torch.lock has no hashes of torch 1.0: make lock\n")
        assert "+cpu" in last
    else:
        assert "--require-hashes" in last


def test_the_wheel_is_built_without_downloading_anything(tmp_path: Path) -> None:
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(ROOT)], env=environment, check=True)
    (wheel,) = tmp_path.glob("onward-*.whl")
    assert wheel.stat().st_size
