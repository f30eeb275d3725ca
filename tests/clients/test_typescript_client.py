"""The TypeScript client compiles, and its own tests pass in Node, against the running service too."""

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.tools import TYPESCRIPT, require_npm
from tests.packaging.environments import run

pytestmark = pytest.mark.clients

LARGEST_BYTES = 6_000
"""Of all modules, compressed by gzip."""


def test_its_own_tests_pass_in_node(service_url: str) -> None:
    require_npm()
    environment = os.environ | {"ONWARD_URL": service_url}
    tests = subprocess.run(
        ["npm", "test"], cwd=TYPESCRIPT, env=environment, capture_output=True, text=True, check=False
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "# skipped 0" in tests.stdout


def test_the_package_is_small_and_needs_no_other(tmp_path: Path) -> None:
    programs = require_npm()
    run([str(programs / "tsc"), "--project", str(TYPESCRIPT / "tsconfig.json"), "--outDir", str(tmp_path)])
    modules = sorted(tmp_path.glob("*.js"))
    assert len(gzip.compress(b"".join(module.read_bytes() for module in modules))) < LARGEST_BYTES
    package = json.loads((TYPESCRIPT / "package.json").read_text())
    assert "dependencies" not in package
    assert not [module.name for module in modules if re.search(r'from "(?!\./)', module.read_text())]


def test_the_example_of_the_readme_compiles(tmp_path: Path) -> None:
    programs = require_npm()
    run([str(programs / "tsc"), "--project", str(TYPESCRIPT / "tsconfig.json"), "--outDir", str(tmp_path / "dist")])
    (example,) = re.findall(r"```ts\n(.*?)```", (TYPESCRIPT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.ts").write_text(example.replace('"onward-client"', '"./dist/index.js"'))
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node"]
    types = ["--typeRoots", str(TYPESCRIPT / "node_modules" / "@types"), "--lib", "es2022,dom"]
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run([str(programs / "tsc"), *options, *types, "example.ts"], cwd=tmp_path)


def test_the_packed_package_is_installed_and_imported(tmp_path: Path, service_url: str) -> None:
    require_npm()
    packed = run(["npm", "pack", "--silent", "--pack-destination", str(tmp_path)], cwd=TYPESCRIPT).stdout.split()[-1]
    files = subprocess.run(["tar", "tf", tmp_path / packed], capture_output=True, text=True, check=True).stdout.split()
    assert {Path(file).parts[1] for file in files} == {"dist", "package.json", "README.md", "LICENSE"}
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "package.json").write_text('{"type": "module"}')
    run(["npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", str(tmp_path / packed)], cwd=shop)
    (shop / "call.js").write_text(
        'import { OnwardClient } from "onward-client";\n'
        "const answer = await new OnwardClient(process.argv[2]).popularItems({ k: 2 });\n"
        "console.log(answer.count);\n"
    )
    assert run([shutil.which("node") or "node", "call.js", service_url], cwd=shop).stdout == "2\n"
