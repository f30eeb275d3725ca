"""Write folders atomically."""

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onward.training.errors import InputError


@contextmanager
def new_folder(out: Path, *, force: bool, marker: str) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that replaces it when the block succeeds and is removed if it fails.

    It is removed after SIGTERM too, which ends the process with exit code 143.

    Raises InputError if `out` exists, unless `force` is set and `out` holds the file `marker`, which proves that it
    is a folder of the same kind.
    """
    if out.exists() and not force:
        raise InputError(f"{out}: exists already; give --force to replace it")
    if out.exists() and not (out / marker).is_file():
        raise InputError(f"{out}: holds no {marker}, so it is not replaced; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        with _exit_on_sigterm():
            yield temporary
            temporary.chmod(0o755)
            _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _replace(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    old = temporary.with_name(f"{temporary.name}.old")
    out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old)
