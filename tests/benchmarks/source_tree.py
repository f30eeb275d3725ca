"""Run the service from a given source tree, and prove that it was loaded from there.

An editable install puts the working tree on the module path of every process, so a benchmark of two revisions could
measure the same code twice. The started process is therefore checked: its own interpreter, flags, environment and
working directory are read from /proc, and the application is imported with exactly these.
"""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
IMPORT_APPLICATION = """\
import importlib, json, sys
program = sys.argv[1]
importlib.import_module(program + ".app")
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps({name: file for name, file in files.items() if file and name.split(".")[0] == program.split(".")[0]}))
"""
"""Prints the file of each loaded module of the program's top-level package, as JSON."""


class SourceTree(NamedTuple):
    """A checkout of this repository, of any revision."""

    root: Path

    @property
    def program(self) -> str:
        """The service's module: `onward.service`, or `service` before the packages moved into a namespace."""
        return "onward.service" if (self.root / "service" / "onward").is_dir() else "service"

    @property
    def python_path(self) -> tuple[Path, ...]:
        """Folders to import the tree's packages from, its `tests` too."""
        namespaces = (self.root / "service", self.root / "training") if self.program == "onward.service" else ()
        return (*namespaces, self.root)

    def verify(self, pid: int) -> str:
        """Return the path of the package that a started server was loaded from.

        Exits the benchmark if a module of the package lies outside this tree.
        """
        files = loaded_modules(pid, self.program)
        root = self.root.resolve()
        for module, file in files.items():
            if not Path(file).resolve().is_relative_to(root):
                raise SystemExit(f"the server of {root} loaded {module} from {file}")
        return files[self.program]


WORKING_TREE = SourceTree(Path(__file__).parents[2])


def loaded_modules(pid: int, program: str) -> dict[str, str]:
    """Return the file of each module that a running Python process loads of a program's top-level package.

    The application is imported anew, in a process with the interpreter, flags, environment and working directory that
    /proc reports for `pid`. Exits the benchmark if the process runs another program or the import fails.
    """
    process = PROC / str(pid)
    if not process.exists():
        raise SystemExit("the loaded modules of a server are checked through /proc, which this system does not have")
    arguments = _null_terminated(process / "cmdline")
    flags = arguments[1 : arguments.index("-m")]
    if (running := arguments[len(flags) + 2]) != program:
        raise SystemExit(f"process {pid} runs {running}, not {program}")
    environment = dict(entry.split("=", 1) for entry in _null_terminated(process / "environ"))
    command = [arguments[0], *flags, "-c", IMPORT_APPLICATION, program]
    ended = subprocess.run(
        command, env=environment, cwd=(process / "cwd").readlink(), capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise SystemExit(f"{program}: {ended.stderr.strip() or 'import failed'}")
    files: dict[str, str] = json.loads(ended.stdout)
    return files


def _null_terminated(path: Path) -> list[str]:
    return path.read_text().rstrip("\0").split("\0")
