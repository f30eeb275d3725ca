"""Write folders atomically."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onward.training.errors import InputError

ATTEMPTS = 100
_unfinished: set[Path] = set()
_replacing = threading.Lock()


@contextmanager
def new_folder(out: Path, *, force: bool, marker: str) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that replaces it when the block succeeds and is removed if it fails.

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
    _unfinished.add(temporary)
    try:
        yield temporary
        with _replacing:
            temporary.chmod(0o755)
            _replace(temporary, out)
            _unfinished.discard(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> bool:
    """Remove the temporary folders of all blocks that run, from another thread; return whether there were any.

    The process must end then. A folder that is just replacing its target is waited for, and kept.
    """
    with _replacing:
        folders = [*_unfinished]
        for folder in folders:
            for _ in range(ATTEMPTS):  # what the block still writes comes between
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break
    return bool(folders)


def _replace(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    old = temporary.with_name(f"{temporary.name}.old")
    out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old)
